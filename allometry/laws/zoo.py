"""The laws: one call each, with the paper and equation that a law comes from.

`amount` is a positive parameter that scales a term (anchored at the centre of the data), `floor` the part of the
loss that no scale removes, `exponent` a positive power; `Parameter` itself is used for what is none of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from allometry.errors import unknown
from allometry.laws.law import Law, Parameter
from allometry.laws.published import PUBLISHED

_LAWS: dict[str, Law] = {}

_N = "parameters"
_D = "training tokens"
_C = "training compute, FLOPs"
_C_PF = "training compute, PF-days (8.64e19 FLOPs) for the published constants"


def get(name: str) -> Law:
    """The law of that name; AllometryError with the nearest names if there is none."""
    if name not in _LAWS:
        raise unknown("law", name, _LAWS)
    return _LAWS[name]


def all_laws() -> dict[str, Law]:
    """Every law by its name, in the order of the zoo."""
    return dict(_LAWS)


def amount(name: str, anchor: str, meaning: str = "") -> Parameter:
    """A positive scale, anchored: its start is between 2 % and 100 % of the output at the centre of the data."""
    return Parameter(name=name, meaning=meaning or "scale of its term", anchor=anchor, relative=True)


def floor(name: str = "E", meaning: str = "loss that no scale removes") -> Parameter:
    """A positive constant that is added: its start is between 5 % and 95 % of the output at the centre."""
    return Parameter(name=name, meaning=meaning, start=(0.05, 0.95), relative=True)


def exponent(name: str, meaning: str = "exponent", low: float = 0.03, high: float = 1.0) -> Parameter:
    """A positive power; starts are drawn from `low` to `high`, the fit may leave that range."""
    return Parameter(name=name, meaning=meaning, start=(low, high), high=20.0)


def _add(
    name: str, title: str, expression: str, inputs: Mapping[str, str], *parameters: Parameter, **more: Any
) -> None:
    published = MappingProxyType(PUBLISHED.get(name, {}))
    law = Law(
        name=name,
        title=title,
        expression=expression,
        inputs=MappingProxyType(dict(inputs)),
        parameters=parameters,
        published=published,
        **more,
    )
    assert name not in _LAWS, f"two laws called {name}"
    _LAWS[name] = law


_add(
    "power",
    "Power law",
    "A/X**alpha",
    {"X": "any scale"},
    amount("A", "A*X**alpha"),
    exponent("alpha"),
    source="Hestness et al. 2017, arXiv 1712.00409",
)
_add(
    "power-offset",
    "Power law above a floor",
    "E + A/X**alpha",
    {"X": "any scale"},
    floor(),
    amount("A", "A*X**alpha"),
    exponent("alpha"),
    source="Henighan et al. 2020, arXiv 2010.14701, eq. 1.1",
)
_add(
    "kaplan-n",
    "Kaplan L(N)",
    "(N_c/N)**alpha_N",
    {"N": "non-embedding parameters"},
    amount("N_c", "N*N_c**(1/alpha_N)", "scale in parameters"),
    exponent("alpha_N"),
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.1",
)
_add(
    "kaplan-d",
    "Kaplan L(D)",
    "(D_c/D)**alpha_D",
    {"D": "tokens in the data set"},
    amount("D_c", "D*D_c**(1/alpha_D)", "scale in tokens"),
    exponent("alpha_D"),
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.2",
)
_add(
    "kaplan-c",
    "Kaplan L(C)",
    "(C_c/C)**alpha_C",
    {"C": _C_PF},
    amount("C_c", "C*C_c**(1/alpha_C)", "scale in compute"),
    exponent("alpha_C"),
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.3 and 3.3",
)
_add(
    "kaplan",
    "Kaplan L(N, D)",
    "((N_c/N)**(alpha_N/alpha_D) + D_c/D)**alpha_D",
    {"N": "non-embedding parameters", "D": "tokens in the data set"},
    exponent("alpha_N"),
    exponent("alpha_D"),
    amount("N_c", "N*N_c**(1/alpha_N)", "scale in parameters"),
    amount("D_c", "D*D_c**(1/alpha_D)", "scale in tokens"),
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5",
)
_add(
    "kaplan-ns",
    "Kaplan L(N, S_min)",
    "(N_c/N)**alpha_N + (S_c/S)**alpha_S",
    {"N": "non-embedding parameters", "S": "S_min: steps at a batch far above the critical one"},
    exponent("alpha_N"),
    exponent("alpha_S"),
    amount("N_c", "N*N_c**(1/alpha_N)", "scale in parameters"),
    amount("S_c", "S*S_c**(1/alpha_S)", "scale in steps"),
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.6",
)
_add(
    "chinchilla",
    "Chinchilla",
    "E + A/N**alpha + B/D**beta",
    {"N": _N, "D": _D},
    floor(),
    amount("A", "A*N**alpha"),
    amount("B", "B*D**beta"),
    exponent("alpha"),
    exponent("beta"),
    source="Hoffmann et al. 2022, arXiv 2203.15556, section 3.3, approach 3",
)
