"""The laws: one call each, with the paper and equation that a law comes from, and the constants that papers printed.

`amount` is a positive parameter that scales a term (anchored at the centre of the data), `floor` the part
of the loss that no scale removes, `exponent` a positive power; `Parameter` itself is used for what is none
of these. Published constants are by law and by name of the set, in the papers' units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allometry.core.registry import Registry
from allometry.laws.law import Law, Parameter
from allometry.laws.published import KAPLAN, PUBLISHED

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


def real(name: str, meaning: str, low: float, high: float, anchor: str | None = None) -> Parameter:
    """Make a number of either sign, fitted as it is; starts (of its anchored value) are drawn from `low` to `high`."""
    return Parameter(
        name=name, meaning=meaning, positive=False, low=-math.inf, start=(low, high), anchor=anchor
    )


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
     amount("N_c", "N*N_c**(1/alpha_N)"), source=f"{KAPLAN}, eq. 1.1")
_add("kaplan-n-log", "Logarithm of N", "a*log(N_0/N)", _N_BODY,
     positive("a", "loss that a factor of e in N takes away", 0.01, 0.3),
     Parameter(name="N_0", meaning="size at which the loss would be zero", start=(0.7, 1.2), relative=True,
               anchor="N*exp(N_0/a)"),
     note="Falls below zero at N_0; Kaplan et al. compare it with the power law.",
     source=f"{KAPLAN}, figure 23")
_add("kaplan-d", "Kaplan L(D)", "(D_c/D)**alpha_D", _DATA, exponent("alpha_D"),
     amount("D_c", "D*D_c**(1/alpha_D)"), source=f"{KAPLAN}, eq. 1.2")
_add("kaplan-c", "Kaplan L(C)", "(C_c/C)**alpha_C", _C, exponent("alpha_C"),
     amount("C_c", "C*C_c**(1/alpha_C)"), source=f"{KAPLAN}, eq. 1.3 (C_min) and 3.3 (fixed batch)")
_add("kaplan", "Kaplan L(N, D)", "((N_c/N)**(alpha_N/alpha_D) + D_c/D)**alpha_D", _N_BODY | _DATA,
     exponent("alpha_N"), exponent("alpha_D"), amount("N_c", "N*N_c**(1/alpha_N)"),
     amount("D_c", "D*D_c**(1/alpha_D)"), source=f"{KAPLAN}, eq. 1.5")
_add("kaplan-ns", "Kaplan L(N, S_min)", "(N_c/N)**alpha_N + (S_c/S)**alpha_S",
     _N_BODY | {"S": "S_min: steps, at a batch far above the critical one"}, exponent("alpha_N"),
     exponent("alpha_S"), amount("N_c", "N*N_c**(1/alpha_N)"), amount("S_c", "S*S_c**(1/alpha_S)"),
     source=f"{KAPLAN}, eq. 1.6")
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
_add("farseer", "Farseer: exponent and scale of D depend on N",
     "exp(s*N**q + S) + exp(B*N**b + Q)/D**exp(A*N**a + E)", _N | _D,
     real("s", "how the loss at infinite D changes with N", -0.3, -0.02, "s/(q*N**q)"),
     positive("q", "power of N in it", 0.02, 0.6),
     real("S", "logarithm of the loss at infinite D, less the part of N", -1.0, 1.0, "S - s/q"),
     real("A", "how the exponent of D changes with N", -0.1, -0.01, "A/(a*N**a)"),
     positive("a", "power of N in it", 0.02, 0.6),
     real("E", "logarithm of the exponent of D, less the part of N", -1.6, -0.3, "E - A/a"),
     real("B", "how the scale of D's term changes with N", -0.5, -0.02, "(B + exp(E)*A*log(D))/(b*N**b)"),
     real("b", "power of N in it", -0.6, -0.02),
     real("Q", "logarithm of D's term at D = 1, less the part of N", -3.0, 0.5,
          "Q + exp(E)*log(D) - (B + exp(E)*A*log(D))/b"),
     contains=(("chinchilla", {
         "q": "0.13", "s": "-alpha*A/N**alpha/(E + A/N**alpha)/(0.13*N**0.13)",
         "S": "log(E + A/N**alpha) + alpha*A/N**alpha/(E + A/N**alpha)/0.13",
         "A": "0", "a": "0.05", "E": "log(beta)", "B": "0", "b": "-0.17", "Q": "log(B)"}),),
     note="Its nine constants trade off: trust predictions near the data, not single constants.",
     source="Li et al. 2025 (Farseer), arXiv 2506.10972")
_add("bryant", "Passes over limited data, between E and the loss of guessing", "E + (L_0 - E)*h/(1 + h)",
     _N | _D | {"U": "unique training tokens"}, floor(), ceiling("L_0", "loss of guessing", 1.2, 4.0),
     positive("a", "scale of the size's term", 0.02, 1.0, "a*N**alpha"), exponent("alpha"),
     positive("b", "scale of the training's term", 0.02, 1.0, "b*D**beta"), exponent("beta"),
     positive("c", "scale of the term of over-fitting", 0.002, 0.3, "c*U**delta/N**gamma"),
     exponent("gamma", "exponent of the size in over-fitting"), exponent("delta", "exponent of unique data in it"),
     where={"h": "a/N**alpha + b/D**beta + c*N**gamma/U**delta"},
     contains=(("chinchilla", {"L_0": "4*highest", "a": "A/(4*highest - E)", "b": "B/(4*highest - E)",
                               "c": "0.001*U**0.5/N**0.5", "gamma": "0.5", "delta": "0.5"}),),
     note="The paper writes D for the unique tokens and T for those trained on: U and D here.",
     source="Bryant & Liu 2026, arXiv 2605.09189")
_add("routed", "Mixture of experts: bilinear in log N and log experts",
     "10**(a*n + b*e + c*n*e + d)", {"N": "parameters of the dense model", "n_E": "number of experts"},
     real("a", "exponent of N", -0.2, -0.02, "a - c*log(n_E)/log(10)"),
     real("b", "exponent of the experts", -0.15, -0.01, "b - c*log(N)/log(10)"),
     real("c", "how experts gain less with N", -0.01, 0.03),
     real("d", "log10 of the loss at N = 1, without experts", -0.2, 0.8,
          "d - a*log(N)/log(10) - b*log(n_E)/log(10) + c*log(N)*log(n_E)/log(10)**2"),
     positive("E_start", "experts before they help", 0.7, 4.0),
     positive("E_max", "experts after which they do not", 60.0, 2000.0),
     where={"n": "log(N)/log(10)",
            "e": "log(1/(1/(n_E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max))/log(10)"},
     source="Clark et al. 2022, arXiv 2202.01169, eq. 1")
_add("joint-experts", "Mixture of experts with size and data",
     "c + a*N**(alpha + gamma*e)*exp(delta*e) + b*D**(beta + zeta*e)*exp(omega*e)",
     {"N": "active parameters"} | _D | {"n_E": "number of experts"}, floor("c"),
     real("gamma", "how the exponent of N changes with the experts", -0.02, 0.03),
     real("alpha", "exponent of N, negative", -0.6, -0.1, "alpha - gamma*log(n_E)"),
     real("delta", "exponent of the experts in N's term", -0.12, 0.02, "delta - gamma*log(N)"),
     amount("a", "a/exp(delta*log(n_E) + alpha*log(N) - gamma*log(n_E)*log(N))"),
     real("zeta", "how the exponent of D changes with the experts", -0.05, 0.02),
     real("beta", "exponent of D, negative", -0.6, -0.1, "beta - zeta*log(n_E)"),
     real("omega", "exponent of the experts in D's term", -0.12, 0.02, "omega - zeta*log(D)"),
     amount("b", "b/exp(omega*log(n_E) + beta*log(D) - zeta*log(n_E)*log(D))"),
     positive("E_start", "experts before they help", 1.2, 4.0),
     positive("E_max", "experts after which they do not", 60.0, 2000.0),
     where={"e": "log(1/(1/(n_E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max))"},
     source="Ludziejewski et al. 2025, arXiv 2502.05172, eq. 6")
_add("experts", "Mixture of experts: a power of N and of the experts", "E + A/(N**alpha*n_E**beta)",
     {"N": "parameters of the dense model", "n_E": "number of experts"}, floor(),
     amount("A", "A*N**alpha*n_E**beta"), exponent("alpha"), exponent("beta", low=0.01),
     source="arXiv 2604.22753, first of its laws of experts")
_add("parallel", "Parallel streams (ParScale)", "E + (A/(N*(1 + k*log(P))))**alpha",
     _N_BODY | {"P": "parallel streams"}, floor(), amount("A", "N*A**(1/alpha)"), exponent("alpha"),
     positive("k", "gain of a stream: P are worth 1 + k log P times the parameters", 0.05, 1.0),
     source="Chen et al. 2025 (ParScale), arXiv 2505.10475")
_add("vocabulary", "Size of the vocabulary", "E + A_1/N_nv**alpha_1 + A_2/N_v**alpha_2 + B/D**beta",
     {"N_nv": "parameters outside the vocabulary", "N_v": "parameters of the vocabulary: V times the width"} | _D,
     floor(), amount("A_1", "A_1*N_nv**alpha_1"), exponent("alpha_1"), amount("A_2", "A_2*N_v**alpha_2"),
     exponent("alpha_2"), amount("B", "B*D**beta"), exponent("beta"),
     note="For a loss that does not depend on the vocabulary: per byte, or normalised by unigrams. The latter is"
          " negative: add a constant, as in L=lossu+10, which E takes up; the paper's E is that constant less E.",
     output_meaning="loss per byte, or another that vocabularies share",
     source="Tao et al. 2024, arXiv 2407.13623, approach 3")
_add("precision", "Bits while training", "E + A/N_eff**alpha + B/D**beta",
     _N | _D | {"P_w": "bits of the weights", "P_a": "bits of the activations", "P_kv": "bits of the key-value cache"},
     floor(), amount("A", "A*N**alpha"), amount("B", "B*D**beta"), exponent("alpha"), exponent("beta"),
     positive("gamma_w", "bits of the weights that count", 0.7, 5.0),
     positive("gamma_a", "bits of the activations that count", 0.7, 5.0),
     positive("gamma_kv", "bits of the cache that count", 0.7, 5.0),
     where={"N_eff": "N*(1 - exp(-P_w/gamma_w))*(1 - exp(-P_a/gamma_a))*(1 - exp(-P_kv/gamma_kv))"},
     contains=(("chinchilla", {"gamma_w": "1", "gamma_a": "1", "gamma_kv": "1"}),),
     source="Kumar et al. 2024, arXiv 2411.04330")
_add("quantised", "Bits after training", "E + A/N**alpha + B/D**beta + C*D**gamma_D/N**gamma_N*exp(-P_post/gamma_post)",
     _N | _D | {"P_post": "bits of the weights after training"},
     floor(), amount("A", "A*N**alpha"), amount("B", "B*D**beta"), exponent("alpha"), exponent("beta"),
     amount("C", "C*N**gamma_N/D**gamma_D*exp(P_post/gamma_post)"),
     exponent("gamma_D", "exponent of D in the loss by rounding"), exponent("gamma_N", "exponent of N in it"),
     positive("gamma_post", "bits that reduce it by a factor of e", 0.3, 3.0),
     note="The paper's C_T is C here. More training makes rounding worse.",
     source="Kumar et al. 2024, arXiv 2411.04330")
_add("looped", "Looped layers", "E + A/(N_once + r**phi*N_rec)**alpha + B/D**beta",
     {"N_once": "parameters used once", "N_rec": "parameters of the looped block", "r": "times it is used"} | _D,
     floor(), amount("A", "A*(N_once + N_rec)**alpha"), amount("B", "B*D**beta"), exponent("alpha"), exponent("beta"),
     real("phi", "worth of a repetition: 1 as much as new layers, 0 nothing", 0.1, 0.9),
     note="The paper found phi = 0.46.",
     source="Schwethelm et al. 2026, arXiv 2604.21106")
for _domains in (2, 3, 4, 5):
    _add(f"mixing-{_domains}", f"Shares of {_domains} domains in the training data",
         "E + k*exp(" + " + ".join(f"t_{i}*r_{i}" for i in range(1, _domains)) + ")",
         {f"r_{i}": f"share of domain {i} (the last domain has the rest)" for i in range(1, _domains)},
         floor(), amount("k", "k", "what the mixture can change"),
         *(real(f"t_{i}", f"gain (negative) by domain {i} instead of the last", -4.0, 1.0) for i in range(1, _domains)),
         linear=frozenset(f"r_{i}" for i in range(1, _domains)), source="Ye et al. 2024, arXiv 2403.16952")
for _domains in (2, 3):
    _add(f"mixing-scale-{_domains}", f"Shares of {_domains} domains, size and data",
         "E + 1/(" + " + ".join(f"C_{i}*h_{i}**gamma_{i}" for i in range(1, _domains + 1))
         + ") + A/N**alpha + B/D**beta",
         _N | _D | {f"h_{i}": f"share of domain {i}" for i in range(1, _domains + 1)},
         floor(), amount("A", "A*N**alpha"), amount("B", "B*D**beta"), exponent("alpha"), exponent("beta"),
         *(p for i in range(1, _domains + 1) for p in (
             positive(f"C_{i}", f"worth of domain {i}", 0.5, 10.0, f"C_{i}/h_{i}**gamma_{i}"),
             exponent(f"gamma_{i}", f"exponent of the share of domain {i}", high=0.7))),
         note="The additive law of the paper; the best shares do not depend on N and D.",
         source="Shukor et al. 2025, arXiv 2507.09404")
_add("critical-batch", "Trade of steps against examples at one loss", "E_min*S/(S - S_min)",
     {"S": "steps to the target loss"}, amount("E_min", "E_min"),
     positive("S_min", "steps at an infinite batch", 0.01, 0.3, "S*S_min"), output="E",
     output_meaning="tokens to the target loss",
     source="McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11; Kaplan et al. 2020, eq. 5.1")
_add("b-crit", "Critical batch B_crit(L)", "B_star/L**(1/alpha_B)", _LOSS,
     amount("B_star", "B_star*L**(1/alpha_B)"), exponent("alpha_B"), output="B_crit",
     output_meaning="critical batch, tokens", source=f"{KAPLAN}, eq. 5.3")
_add("frontier", "Compute-optimal size", "N_e*C**p", _C, amount("N_e", "N_e/C**p"),
     exponent("p", "exponent of compute", 0.2, 1.0), output="N",
     output_meaning="compute-optimal parameters",
     source=f"{KAPLAN}, table 6; Hoffmann et al. 2022, table 2")
_add("position", "Loss by position in the context", "a + b/T**c",
     {"T": "token index in the context, from 1"}, floor("a", "loss at the end of a long context"),
     amount("b", "b*T**c"), exponent("c"), source=f"{KAPLAN}, figure 20")
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
     output="G", output_meaning="loss over that on infinite data, less one", source=f"{KAPLAN}, eq. 4.3")
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
