"""Corpora that are generated, not collected: languages, random sequences, equations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from allometry.core.errors import unknown
from allometry.core.units import format_bytes, parse_number
from allometry.data import arithmetic, uniform
from allometry.data.arithmetic import Equations
from allometry.data.spec import CorpusSpec, refuse_unknown
from allometry.data.synthetic import Language
from allometry.data.uniform import Uniform

_LANGUAGE = ("order", "symbols", "exponent", "length", "bytes", "seed")
_UNIFORM = ("symbols", "length", "sequences", "seed")

OPTIONS = frozenset({*_LANGUAGE, *_UNIFORM})
"""Keys that may follow the argument of one kind or another."""

ABOUT = (
    "a generated language whose entropy is known, uniform sequences, or the equations of modular arithmetic "
    "or S5"
)

USAGE = (
    "synthetic:zipf[,order=2,symbols=64,exponent=1.5,length=1000,bytes=10M,seed=0], "
    f"{uniform.FORM}, {arithmetic.FORM}"
)


def synthetic(name: str, argument: str, options: Mapping[str, str]) -> CorpusSpec:
    """Return the corpus that "synthetic:ARGUMENT" with these options means; AllometryError for an unknown one."""
    if argument.partition(":")[0] in ("modular", "s5"):
        return _equations(name, argument, options)
    if argument not in ("zipf", "uniform"):
        raise unknown(
            "synthetic language", argument, ["zipf", "uniform", "modular:P:OPERATION", "s5:OPERATION"]
        )
    refuse_unknown(name, options, _LANGUAGE if argument == "zipf" else _UNIFORM)
    numbers = {key: parse_number(value, f"option {key} of corpus {name!r}") for key, value in options.items()}
    if argument == "uniform":
        return _uniform(name, numbers)
    language = Language.of(numbers)
    return CorpusSpec(
        name=name,
        about=f"a Zipfian Markov source of order {language.order} over {language.symbols} characters",
        source="generated",
        licence="none needed",
        attribution="",
        size=format_bytes(language.bytes),
        read=lambda cache: language.documents(),
        fingerprint=lambda: asdict(language),
        entropy=language.entropy,
    )


def _uniform(name: str, numbers: Mapping[str, float]) -> CorpusSpec:
    source = Uniform.of(numbers)
    return CorpusSpec(
        name=name,
        about=f"uniform sequences of {source.length} out of {source.symbols} symbols: nothing to generalise",
        source="generated",
        licence="none needed",
        attribution="",
        size=f"{source.sequences} sequences",
        read=lambda cache: source.documents(),
        fingerprint=lambda: asdict(source),
        entropy=source.entropy,
        symbols=source.names,
        record=source.length + 1,
    )


def _equations(name: str, argument: str, options: Mapping[str, str]) -> CorpusSpec:
    refuse_unknown(name, options, ())
    equations = Equations.of(argument)
    where = "permutations of five things" if equations.modulus is None else f"residues of {equations.modulus}"
    return CorpusSpec(
        name=name,
        about=f"all equations of {equations.operation} over {where}, {equations.train:.0%} for training",
        source="generated",
        licence="none needed",
        attribution="",
        size=f"{len(equations.table())} equations",
        read=lambda cache: equations.documents(),
        fingerprint=lambda: asdict(equations),
        symbols=equations.symbols,
        record=arithmetic.LENGTH,
        answer=arithmetic.ANSWER,
    )
