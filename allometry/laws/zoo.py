"""The laws: one call each, with the paper and equation that a law comes from, and the constants that papers printed.

`amount` is a positive parameter that scales a term (anchored at the centre of the data), `floor` the part
of the loss that no scale removes, `exponent` a positive power; `Parameter` itself is used for what is none
of these. Published constants are by law and by name of the set, in the papers' units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from math import exp
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allometry.core.registry import Registry
from allometry.laws.law import Law, Parameter, Published

_KAPLAN = "Kaplan et al. 2020, arXiv 2001.08361"
_SHEHPER = "github.com/shehper/scaling_laws (models of at most 6.3M parameters on OpenWebText)"
_EPOCH = "Besiroglu et al. 2024, arXiv 2404.10102"
_HOFFMANN = "Hoffmann et al. 2022, arXiv 2203.15556"
_HERNANDEZ = "Hernandez et al. 2021, arXiv 2102.01293"
_PORIAN = "Porian et al. 2024, arXiv 2406.19146, fits printed in their plotting code"
_DEEPSEEK = "Bi et al. 2024 (DeepSeek LLM), arXiv 2401.02954"
_STEP = "Li et al. 2025 (Step Law), arXiv 2503.04715"

_ND = {"N": "non-embedding parameters", "D": "tokens", "L": "nats per token"}
_TOTAL = {"N": "parameters", "D": "tokens", "L": "nats per token"}
_PF = {"C": "PF-days", "L": "nats per token"}
_CHARACTERS = {"N": "non-embedding parameters", "D_F": "characters", "D_T": "characters"}
_ROUNDED = "A, B, alpha and beta are rounded so hard that they do not describe the paper's own data"


_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    _KAPLAN: {"N": (768, 1.5e9), "D": (2.2e7, 2.3e10)},  # section 1.3: models and data sets
    _HOFFMANN: {"N": (7e7, 1.6e10), "D": (5e9, 5e11)},  # abstract
    _EPOCH: {"N": (7e7, 1.6e10), "D": (5e9, 5e11)},  # the same runs
    "Muennighoff et al. 2023": {"N": (7e6, 9e9), "D": (1e8, 9e11)},  # abstract and section 4
}
"""Start of a source -> sizes and tokens of the runs behind its constants."""


def _set(
    name: str, source: str, units: dict[str, str] | None = None, note: str = "", **values: float
) -> Published:
    ranges = next((r for start, r in _RANGES.items() if source.startswith(start)), {})
    return Published(name=name, values=values, source=source, units=units or {}, note=note, ranges=ranges)


_BY_LAW: dict[str, tuple[Published, ...]] = {
    "kaplan-n": (
        _set("kaplan2020-table5", f"{_KAPLAN}, table 5", _ND, N_c=8.8e13, alpha_N=0.076),
        _set("shehper2024", _SHEHPER, _ND, N_c=3.8e13, alpha_N=0.082),
    ),
    "kaplan-n-log": (_set("kaplan2020-figure23", f"{_KAPLAN}, figure 23", _ND, a=0.25, N_0=7.1e12),),
    "kaplan-d": (_set("kaplan2020-table5", f"{_KAPLAN}, table 5", _ND, D_c=5.4e13, alpha_D=0.095),),
    "kaplan-c": (
        _set(
            "kaplan2020-table5", f"{_KAPLAN}, table 5", _PF, "C at the fixed batch", C_c=1.6e7, alpha_C=0.057
        ),
        _set("kaplan2020-table5-cmin", f"{_KAPLAN}, table 5", _PF, "C is C_min", C_c=3.1e8, alpha_C=0.050),
        _set(
            "kaplan2020-figure13",
            f"{_KAPLAN}, figure 13",
            _PF,
            "C at the fixed batch",
            C_c=2.0e7,
            alpha_C=0.057,
        ),
        _set(
            "kaplan2020-figure13-cmin", f"{_KAPLAN}, figure 13", _PF, "C is C_min", C_c=2.3e8, alpha_C=0.050
        ),
        _set("shehper2024", _SHEHPER, _PF, "C at the fixed batch", C_c=1.8e5, alpha_C=0.074),
        _set("shehper2024-cmin", _SHEHPER, _PF, "C is C_min", C_c=4.2e6, alpha_C=0.056),
    ),
    "kaplan": (
        _set(
            "kaplan2020-table2",
            f"{_KAPLAN}, table 2",
            _ND,
            alpha_N=0.076,
            alpha_D=0.103,
            N_c=6.4e13,
            D_c=1.8e13,
        ),
        _set("shehper2024", _SHEHPER, _ND, alpha_N=0.076, alpha_D=0.122, N_c=1.32e14, D_c=1.22e12),
    ),
    "kaplan-ns": (
        _set(
            "kaplan2020-table3",
            f"{_KAPLAN}, table 3",
            _ND,
            alpha_N=0.077,
            alpha_S=0.76,
            N_c=6.5e13,
            S_c=2.1e3,
        ),
    ),
    "chinchilla": (
        _set(
            "besiroglu2024",
            f"{_EPOCH}, the refit of Hoffmann's points",
            _TOTAL,
            E=1.8172,
            A=482.01,
            B=2085.43,
            alpha=0.3478,
            beta=0.3658,
        ),
        _set(
            "hoffmann2022",
            f"{_HOFFMANN}, eq. 10",
            _TOTAL,
            _ROUNDED,
            E=1.69,
            A=406.4,
            B=410.7,
            alpha=0.34,
            beta=0.28,
        ),
        _set(
            "hoffmann2022-unrounded",
            f"{_HOFFMANN}, the TeX source's digits, as {_EPOCH} quotes them",
            _TOTAL,
            E=exp(0.5267228),
            A=exp(6.0073404),
            B=exp(6.0179186),
            alpha=0.33917084,
            beta=0.2849083,
        ),
    ),
    "muennighoff": (
        _set(
            "muennighoff2023",
            "Muennighoff et al. 2023, arXiv 2305.16264, github.com/huggingface/datablations",
            {**_TOTAL, "U": "unique tokens"},
            E=exp(0.6254804),
            A=exp(6.255414),
            B=exp(7.3049974),
            alpha=0.3526596,
            beta=0.3526596,
            R_D=15.387756,
            R_N=5.309743,
        ),
    ),
    "b-crit": (
        _set("kaplan2020-table5", f"{_KAPLAN}, table 5", {"B_crit": "tokens"}, B_star=2.1e8, alpha_B=0.21),
        _set("shehper2024", _SHEHPER, {"B_crit": "tokens"}, B_star=2.2e7, alpha_B=1 / 4.26),
    ),
    "frontier": (
        _set("kaplan2020-table6", f"{_KAPLAN}, table 6", {**_PF, **_ND}, "C is C_min", N_e=1.3e9, p=0.73),
        _set(
            "kaplan2020-figure14",
            f"{_KAPLAN}, figure 14",
            {**_PF, **_ND},
            "at a fixed batch",
            N_e=1.6e9,
            p=0.88,
        ),
        _set("shehper2024", _SHEHPER, {**_PF, **_ND}, "at a fixed batch", N_e=2.8e9, p=0.90),
        _set("shehper2024-cmin", _SHEHPER, {**_PF, **_ND}, "C is C_min", N_e=4.2e9, p=0.72),
    ),
    "position": (
        _set(
            "kaplan2020-figure20",
            f"{_KAPLAN}, figure 20",
            {"T": "token index"},
            "774M parameters",
            a=2.3,
            b=5.4,
            c=0.62,
        ),
    ),
    "transfer": (
        _set(
            "hernandez2021-text", f"{_HERNANDEZ}, text to Python", _CHARACTERS, k=1.9e4, alpha=0.18, beta=0.38
        ),
        _set(
            "hernandez2021-mix",
            f"{_HERNANDEZ}, text and code to Python",
            _CHARACTERS,
            k=2.1e5,
            alpha=0.096,
            beta=0.38,
        ),
    ),
    "learning-rate": (
        _set("step2025", _STEP, {"N": "non-vocabulary parameters", "D": "tokens"}, c=1.79, a=-0.713, b=0.307),
        _set(
            "porian2024", _PORIAN, {"N": "parameters with head"}, c=0.0047 * 108e6 ** (1 / 3), a=-1 / 3, b=0.0
        ),
    ),
    "batch-size": (
        _set("step2025", _STEP, {"B": "tokens"}, c=0.58, a=0.0, b=0.571),
        _set("porian2024", _PORIAN, {"B": "tokens"}, c=160 * 2048 / 108e6 ** (2 / 3), a=2 / 3, b=0.0),
    ),
    "learning-rate-c": (_set("deepseek2024", _DEEPSEEK, {"C": "FLOPs"}, c=0.3118, p=-0.1250),),
    "batch-size-c": (_set("deepseek2024", _DEEPSEEK, {"C": "FLOPs", "B": "tokens"}, c=0.2920, p=0.3271),),
}

PUBLISHED: dict[str, dict[str, Published]] = {law: {p.name: p for p in sets} for law, sets in _BY_LAW.items()}
"""Law name -> set name -> constants."""


LAWS: Registry[Law] = Registry("law", ordered=True)
"""Every law by its name, in the order of the zoo."""

_X = {"X": "any scale"}
_N = {"N": "parameters"}
_N_BODY = {"N": "non-embedding parameters"}
_D = {"D": "training tokens"}
_DATA = {"D": "tokens in the data set"}
_C = {"C": "training compute, in PF-days (8.64e19 FLOPs) for Kaplan's constants"}
_LOSS = {"L": "loss, nats per token"}
_REPEATED = {"N": "parameters", "U": "unique training tokens", "R": "repeats: passes over them, less one"}
_GAP = "gap, nats per token: test loss above training loss, or above that on fresh tokens"
_REVISITING = "Alabdulmohsin et al. 2022, arXiv 2209.06640"
_BROKEN = "Caballero et al. 2022, arXiv 2210.14891"


def get(name: str) -> Law:
    """Return the law of that name; raise AllometryError with the nearest names if there is none."""
    return LAWS[name]


def all_laws() -> dict[str, Law]:
    """Return every law by its name, in the order of the zoo."""
    return LAWS.all()


def amount(name: str, anchor: str, meaning: str = "") -> Parameter:
    """Make a positive scale, anchored; starts are 2 % to 100 % of the output at the centre of the data."""
    return Parameter(name=name, meaning=meaning or "scale of its term", anchor=anchor, relative=True)


def floor(name: str = "E", meaning: str = "loss that no scale removes") -> Parameter:
    """Make a positive constant that is added: its start is between 5 % and 95 % of the output at the centre."""
    return Parameter(name=name, meaning=meaning, start=(0.05, 0.95), relative=True, floor=True)


def ceiling(name: str, meaning: str, low: float, high: float) -> Parameter:
    """Make a positive constant above the data: its start is between `low` and `high` times the largest
    output.
    """
    return Parameter(name=name, meaning=meaning, start=(low, high), relative=True, upper=True)


def repeats(name: str, meaning: str) -> Parameter:
    """Make a number of repeats, which data may leave without an upper bound."""
    return Parameter(name=name, meaning=meaning, start=(1.0, 100.0), low=1e-3, high=1e10)


def real(name: str, meaning: str, low: float, high: float) -> Parameter:
    """Make a number of either sign, fitted as it is; starts are drawn from `low` to `high`."""
    return Parameter(name=name, meaning=meaning, positive=False, low=-math.inf, start=(low, high))


def positive(name: str, meaning: str, low: float, high: float, anchor: str | None = None) -> Parameter:
    """Make a positive number with a range of its own, independent of the output."""
    return Parameter(name=name, meaning=meaning, start=(low, high), anchor=anchor)


def exponent(name: str, meaning: str = "exponent", low: float = 0.03, high: float = 1.0) -> Parameter:
    """Make a positive power; starts are drawn from `low` to `high`, the fit may leave that range."""
    return Parameter(name=name, meaning=meaning, start=(low, high), high=20.0)


def _bend(i: int) -> tuple[Parameter, Parameter, Parameter]:
    """Make the three parameters of the i-th break of a broken power law."""
    return (
        real(f"c_{i}", f"change of exponent at break {i}", -0.3, 0.5),
        positive(f"d_{i}", f"where break {i} is", 0.03 * 3.0**i, 0.3 * 3.0**i, f"X*d_{i}"),
        Parameter(name=f"f_{i}", meaning=f"how gradual break {i} is", start=(0.1, 1.0), low=0.02, high=10.0),
    )


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
    LAWS.add(name, law)


# fmt: off
_add("power", "Power law", "A/X**alpha", _X, amount("A", "A*X**alpha"), exponent("alpha"),
     source="Hestness et al. 2017, arXiv 1712.00409")
_add("power-offset", "Power law above a floor (M2)", "E + A/X**alpha", _X, floor(),
     amount("A", "A*X**alpha"), exponent("alpha"), source="Henighan et al. 2020, arXiv 2010.14701, eq. 1.1")
_add("m3", "Power law that saturates at both ends (M3)", "E + A*(1/X + gamma)**alpha", _X, floor(),
     amount("A", "A*X**alpha"), exponent("alpha"),
     positive("gamma", "1/X at which the law bends", 0.01, 3.0, "gamma/X"),
     contains=(("power-offset", {"gamma": "0.001/X"}),),
     source=f"{_REVISITING}, section 3, M3")
_add("m4", "Sigmoid-like law (M4)", "(L - E)/(L_0 - L)**alpha - A/X**c", _X, floor(), amount("A", "A*X**c"),
     exponent("c"), positive("alpha", "how sharply the law leaves L_0", 0.05, 0.9),
     ceiling("L_0", "loss of random guessing", 1.2, 4.0), bracket=("E", "L_0"),
     contains=(("power-offset", {"c": "alpha", "alpha": "0.0001", "L_0": "2*highest"}),
               *(("power-offset", {"c": "alpha", "alpha": "0.3", "L_0": f"{above}*highest"}) for above in (1.02, 1.2)),
               ("m3", {"c": "alpha", "alpha": "0.1", "L_0": "1.1*highest"}),
               ("m3", {"c": "alpha", "alpha": "1", "L_0": "1.05*highest", "E": "E + A*gamma**alpha"})),
     source=f"{_REVISITING}, eq. 2, M4")
_add("kaplan-n", "Kaplan L(N)", "(N_c/N)**alpha_N", _N_BODY, exponent("alpha_N"),
     amount("N_c", "N*N_c**(1/alpha_N)"), source=f"{_KAPLAN}, eq. 1.1")
_add("kaplan-n-log", "Logarithm of N", "a*log(N_0/N)", _N_BODY,
     positive("a", "loss that a factor of e in N takes away", 0.01, 0.3),
     Parameter(name="N_0", meaning="size at which the loss would be zero", start=(0.7, 1.2), relative=True,
               anchor="N*exp(N_0/a)"),
     note="Falls below zero at N_0; Kaplan et al. compare it with the power law.",
     source=f"{_KAPLAN}, figure 23")
_add("kaplan-d", "Kaplan L(D)", "(D_c/D)**alpha_D", _DATA, exponent("alpha_D"),
     amount("D_c", "D*D_c**(1/alpha_D)"), source=f"{_KAPLAN}, eq. 1.2")
_add("kaplan-c", "Kaplan L(C)", "(C_c/C)**alpha_C", _C, exponent("alpha_C"),
     amount("C_c", "C*C_c**(1/alpha_C)"), source=f"{_KAPLAN}, eq. 1.3 (C_min) and 3.3 (fixed batch)")
_add("kaplan", "Kaplan L(N, D)", "((N_c/N)**(alpha_N/alpha_D) + D_c/D)**alpha_D", _N_BODY | _DATA,
     exponent("alpha_N"), exponent("alpha_D"), amount("N_c", "N*N_c**(1/alpha_N)"),
     amount("D_c", "D*D_c**(1/alpha_D)"), source=f"{_KAPLAN}, eq. 1.5")
_add("kaplan-ns", "Kaplan L(N, S_min)", "(N_c/N)**alpha_N + (S_c/S)**alpha_S",
     _N_BODY | {"S": "S_min: steps, at a batch far above the critical one"}, exponent("alpha_N"),
     exponent("alpha_S"), amount("N_c", "N*N_c**(1/alpha_N)"), amount("S_c", "S*S_c**(1/alpha_S)"),
     source=f"{_KAPLAN}, eq. 1.6")
_add("chinchilla", "Chinchilla", "E + A/N**alpha + B/D**beta", _N | _D, floor(), amount("A", "A*N**alpha"),
     amount("B", "B*D**beta"), exponent("alpha"), exponent("beta"), derived={"a": "beta/(alpha + beta)"},
     note="a is the exponent of the compute-optimal N in C = 6ND.",
     source="Hoffmann et al. 2022, arXiv 2203.15556, approach 3, eq. 2")
_add("chinchilla-tied", "Chinchilla with one exponent", "E + A/N**alpha + B/D**alpha", _N | _D, floor(),
     amount("A", "A*N**alpha"), amount("B", "B*D**alpha"), exponent("alpha"),
     source="Hoffmann et al. 2022, arXiv 2203.15556, with alpha = beta as in Muennighoff et al. 2023")
_add("gadre", "Over-training at M tokens per parameter", "E + (a*M**eta + b/M**eta)/C**eta",
     _N | {"M": "training tokens per parameter"}, floor(), amount("a", "a*(6*N**2)**eta"),
     amount("b", "b*(6*N**2*M**2)**eta"), exponent("eta", low=0.03, high=0.5), where={"C": "6*N**2*M"},
     source="Gadre et al. 2024, arXiv 2403.08540, eq. 4")
_add("gadre-error", "Error from loss", "epsilon - k*exp(-gamma*L)", _LOSS,
     ceiling("epsilon", "error of a useless model", 1.0, 2.0), amount("k", "k*exp(gamma*L)"),
     positive("gamma", "how fast the error falls with the loss", 0.1, 3.0), output="Err",
     output_meaning="average top-1 error downstream", source="Gadre et al. 2024, arXiv 2403.08540, eq. 5")
_add("muennighoff", "Data-constrained law", "E + A/N_eff**alpha + B/D_eff**beta",
     _N | _D | {"U": "unique training tokens available"}, floor(), amount("A", "A*N**alpha"),
     amount("B", "B*D**beta"), exponent("alpha"), exponent("beta"),
     repeats("R_D", "R_D*: how many repeats of the data are worth having"),
     repeats("R_N", "R_N*: the same for parameters beyond what the data deserve"),
     where={"U_D": "Min(U, D)", "D_eff": "U_D + U_D*R_D*(1 - exp(-(D/U_D - 1)/R_D))",
            "G": "(alpha*A/(beta*B))**(1/(alpha + beta))", "U_N": "Min(N, G*(G*U_D)**(beta/alpha))",
            "N_eff": "U_N + U_N*R_N*(1 - exp(-(N/U_N - 1)/R_N))"},
     contains=(("chinchilla", {"R_D": "100", "R_N": "100"}),),
     source="Muennighoff et al. 2023, arXiv 2305.16264, eq. 5 and 6")
_add("skaling", "Videau et al., additive terms under one power", "E + A*(N**(-a) + R/D**b)**k", _N | _D, floor(),
     amount("A", "A*N**(a*k)"), exponent("a"), exponent("b"),
     positive("R", "weight of data against parameters", 0.1, 10.0, "R*D**b/N**a"),
     positive("k", "power of the sum", 0.3, 3.0),
     contains=(("chinchilla", {"a": "alpha", "b": "beta", "R": "B/A", "k": "1"}),),
     source="Videau et al.; Kaplan's eq. 1.5 with free powers above a floor")
_add("rosenfeld", "Rosenfeld, with the plateau of random guessing", "e*L_0/sqrt(e**2 + L_0**2)", _N | _D,
     floor(), amount("A", "A*N**alpha"), amount("B", "B*D**beta"), exponent("alpha"), exponent("beta"),
     ceiling("L_0", "loss of random guessing", 1.2, 4.0), where={"e": "E + A/N**alpha + B/D**beta"},
     contains=(("chinchilla", {"L_0": "4*highest"}),),
     note="The paper's eta only rescales A, B and E; here eta = L_0, so that e is the loss far from random.",
     source="Rosenfeld et al. 2020, arXiv 1909.12673, eq. 5")
for _breaks in (1, 2, 3):
    _add(f"broken-{_breaks}", f"Broken power law, breaks: {_breaks}",
         "E + A/X**c_0" + "".join(
             f"*(1 + (X/d_{i})**(1/f_{i}))**(-c_{i}*f_{i})" for i in range(1, _breaks + 1)),
         _X, floor(), amount("A", "A*X**c_0"), real("c_0", "exponent before the first break", 0.0, 0.5),
         *(p for i in range(1, _breaks + 1) for p in _bend(i)),
         contains=tuple(
             ("power-offset" if _breaks == 1 else f"broken-{_breaks - 1}",
              ({"c_0": "alpha"} if _breaks == 1 else {})
              | {f"c_{_breaks}": "0", f"d_{_breaks}": place, f"f_{_breaks}": "0.3"})
             for place in ("X", "7*X", "X/7")),
         source=f"{_BROKEN}, eq. 1")
_add("critical-batch", "Trade of steps against examples at one loss", "E_min*S/(S - S_min)",
     {"S": "steps to the target loss"}, amount("E_min", "E_min"),
     positive("S_min", "steps at an infinite batch", 0.01, 0.3, "S*S_min"), output="E",
     output_meaning="tokens to the target loss",
     source="McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11; Kaplan et al. 2020, eq. 5.1")
_add("b-crit", "Critical batch B_crit(L)", "B_star/L**(1/alpha_B)", _LOSS,
     amount("B_star", "B_star*L**(1/alpha_B)"), exponent("alpha_B"), output="B_crit",
     output_meaning="critical batch, tokens", source=f"{_KAPLAN}, eq. 5.3")
_add("frontier", "Compute-optimal size", "N_e*C**p", _C, amount("N_e", "N_e/C**p"),
     exponent("p", "exponent of compute", 0.2, 1.0), output="N",
     output_meaning="compute-optimal parameters",
     source=f"{_KAPLAN}, table 6; Hoffmann et al. 2022, table 2")
_add("position", "Loss by position in the context", "a + b/T**c",
     {"T": "token index in the context, from 1"}, floor("a", "loss at the end of a long context"),
     amount("b", "b*T**c"), exponent("c"), source=f"{_KAPLAN}, figure 20")
_add("transfer", "Effective data transferred", "k*D_F**alpha*N**beta",
     {"D_F": "fine-tuning data, characters"} | _N_BODY, amount("k", "k/(D_F**alpha*N**beta)"),
     exponent("alpha"), exponent("beta"), output="D_T",
     output_meaning="effective data transferred, characters",
     source="Hernandez et al. 2021, arXiv 2102.01293, eq. 1.2")
_add("gap", "Penalty of repeated data", "P*R**delta*(N/U)**kappa", _REPEATED,
     amount("P", "P/(R**delta*(N/U)**kappa)"),
     exponent("delta", "exponent of repeats"), exponent("kappa", "exponent of parameters per token"),
     output="G", output_meaning=_GAP, source="Lovelace et al. 2026, the last term of their law")
_add("gap-power", "Gap as a power of size, data and repeats", "P*R**delta*N**a/U**b", _REPEATED,
     amount("P", "P*U**b/(R**delta*N**a)"), exponent("delta", "exponent of repeats"), exponent("a"),
     exponent("b"), output="G", output_meaning=_GAP,
     source="the penalty of Lovelace et al. 2026 with exponents of their own for N and U")
_add("gap-saturating", "Gap that fills up with repeats", "P*(N/U)**kappa*(1 - exp(-R/R_0))", _REPEATED,
     amount("P", "P/(N/U)**kappa"), exponent("kappa", "exponent of parameters per token"),
     repeats("R_0", "repeats after which most of it has come"), output="G", output_meaning=_GAP,
     source="the penalty of Lovelace et al. 2026 with the decay of Muennighoff et al. 2023, eq. 5")
_add("excess", "Excess loss of too little data", "(1 + K*N**kappa/U)**alpha - 1",
     _N | {"U": "unique training tokens"},
     positive("K", "scale of N^kappa over U", 0.1, 10.0, "K*U/N**kappa"),
     exponent("kappa", "how fast data must grow with size"), exponent("alpha", "exponent of the data"),
     output="G", output_meaning="loss over that on infinite data, less one", source=f"{_KAPLAN}, eq. 4.3")
_add("learning-rate", "Optimal learning rate", "c*N**a*D**b", _N | _D, amount("c", "c/(N**a*D**b)"),
     real("a", "exponent of N", -1.0, 1.0), real("b", "exponent of D", -1.0, 1.0), output="lr",
     output_meaning="optimal peak learning rate", source="Li et al. 2025, arXiv 2503.04715, eq. 1")
_add("batch-size", "Optimal batch", "c*N**a*D**b", _N | _D, amount("c", "c/(N**a*D**b)"),
     real("a", "exponent of N", -1.0, 1.0), real("b", "exponent of D", -1.0, 1.0), output="B",
     output_meaning="optimal batch, tokens", source="Li et al. 2025, arXiv 2503.04715, eq. 1")
_add("learning-rate-c", "Optimal learning rate by compute", "c*C**p", {"C": "training compute, FLOPs"},
     amount("c", "c/C**p"), real("p", "exponent of compute", -1.0, 1.0), output="lr",
     output_meaning="optimal peak learning rate", source="Bi et al. 2024, arXiv 2401.02954, eq. 1")
_add("batch-size-c", "Optimal batch by compute", "c*C**p", {"C": "training compute, FLOPs"},
     amount("c", "c/C**p"), real("p", "exponent of compute", -1.0, 1.0), output="B",
     output_meaning="optimal batch, tokens", source="Bi et al. 2024, arXiv 2401.02954, eq. 1")
_add("sigmoid", "Downstream accuracy from loss", "lo + (hi - lo)/(1 + exp(k*(L - L_mid)))", _LOSS,
     floor("lo", "accuracy of guessing"), ceiling("hi", "accuracy of a perfect model", 1.0, 1.5),
     positive("k", "steepness", 0.5, 10.0),
     positive("L_mid", "loss at which half of the rise is made", 0.7, 1.4, "L*L_mid"), output="acc",
     output_meaning="accuracy downstream",
     source="Grattafiori et al. 2024 (Llama 3), arXiv 2407.21783, section 3.2.1")
_add("schedule", "Loss curve of any learning-rate schedule (momentum law)", "L_0 + A/S_1**alpha - C*S_2",
     {"S_1": "sum of the learning rates so far", "S_2": "annealing area so far (laws.zoo.areas)"},
     floor("L_0"), amount("A", "A*S_1**alpha"), exponent("alpha"),
     Parameter(name="C", meaning="gain by annealing", start=(0.002, 0.2), relative=True, anchor="C/S_2"),
     linear=frozenset({"S_2"}), source="Tissue et al. 2024, arXiv 2408.11029, eq. 1")
# fmt: on


Array = NDArray[np.float64]


def areas(rates: ArrayLike, decay: float = 0.999) -> tuple[Array, Array]:
    """Return the forward area S_1 and annealing area S_2 after each step of a schedule (Tissue et al. 2024,
    section 3).

    `rates` are the learning rates of the steps, shape (steps,). S_1 is their running sum. Annealing gathers
    momentum m_i = decay * m_(i-1) + (rate_(i-1) - rate_i), from the highest rate on (a warm-up is no
    annealing), and S_2 is the running sum of m. Both have the shape of `rates`; they are inputs of the law
    "schedule".
    """
    rate = np.asarray(rates, dtype=float)
    drops = np.zeros_like(rate)
    drops[1:] = -np.diff(rate)
    drops[: int(np.argmax(rate)) + 1] = 0.0
    momentum = np.empty_like(rate)
    carried = 0.0
    for i, drop in enumerate(drops):
        carried = decay * carried + drop
        momentum[i] = carried
    return np.cumsum(rate), np.cumsum(momentum)
