"""Constants that papers printed for the laws of the zoo, in the papers' units, with the table or equation.

They are kept by law and by the name of the set; the first set of a law is the one that is taken where none is named.
Constants that nobody can check in the source do not belong here."""

from __future__ import annotations

from math import exp

from allometry.laws.law import Published

KAPLAN = "Kaplan et al. 2020, arXiv 2001.08361"
SHEHPER = "github.com/shehper/scaling_laws (models of at most 6.3M parameters on OpenWebText)"
EPOCH = "Besiroglu et al. 2024, arXiv 2404.10102"
HOFFMANN = "Hoffmann et al. 2022, arXiv 2203.15556"
HERNANDEZ = "Hernandez et al. 2021, arXiv 2102.01293"
PORIAN = "Porian et al. 2024, arXiv 2406.19146, fits printed in their plotting code"
DEEPSEEK = "Bi et al. 2024 (DeepSeek LLM), arXiv 2401.02954"
STEP = "Li et al. 2025 (Step Law), arXiv 2503.04715"

_ND = {"N": "non-embedding parameters", "D": "tokens", "L": "nats per token"}
_TOTAL = {"N": "parameters", "D": "tokens", "L": "nats per token"}
_PF = {"C": "PF-days", "L": "nats per token"}
_CHARACTERS = {"N": "non-embedding parameters", "D_F": "characters", "D_T": "characters"}
_ROUNDED = "A, B, alpha and beta are rounded so hard that they do not describe the paper's own data"


_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    KAPLAN: {"N": (768, 1.5e9), "D": (2.2e7, 2.3e10)},  # section 1.3: models and data sets
    HOFFMANN: {"N": (7e7, 1.6e10), "D": (5e9, 5e11)},  # abstract
    EPOCH: {"N": (7e7, 1.6e10), "D": (5e9, 5e11)},  # the same runs
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
        _set("kaplan2020-table5", f"{KAPLAN}, table 5", _ND, N_c=8.8e13, alpha_N=0.076),
        _set("shehper2024", SHEHPER, _ND, N_c=3.8e13, alpha_N=0.082),
    ),
    "kaplan-n-log": (_set("kaplan2020-figure23", f"{KAPLAN}, figure 23", _ND, a=0.25, N_0=7.1e12),),
    "kaplan-d": (_set("kaplan2020-table5", f"{KAPLAN}, table 5", _ND, D_c=5.4e13, alpha_D=0.095),),
    "kaplan-c": (
        _set(
            "kaplan2020-table5", f"{KAPLAN}, table 5", _PF, "C at the fixed batch", C_c=1.6e7, alpha_C=0.057
        ),
        _set("kaplan2020-table5-cmin", f"{KAPLAN}, table 5", _PF, "C is C_min", C_c=3.1e8, alpha_C=0.050),
        _set(
            "kaplan2020-figure13",
            f"{KAPLAN}, figure 13",
            _PF,
            "C at the fixed batch",
            C_c=2.0e7,
            alpha_C=0.057,
        ),
        _set("kaplan2020-figure13-cmin", f"{KAPLAN}, figure 13", _PF, "C is C_min", C_c=2.3e8, alpha_C=0.050),
        _set("shehper2024", SHEHPER, _PF, "C at the fixed batch", C_c=1.8e5, alpha_C=0.074),
        _set("shehper2024-cmin", SHEHPER, _PF, "C is C_min", C_c=4.2e6, alpha_C=0.056),
    ),
    "kaplan": (
        _set(
            "kaplan2020-table2",
            f"{KAPLAN}, table 2",
            _ND,
            alpha_N=0.076,
            alpha_D=0.103,
            N_c=6.4e13,
            D_c=1.8e13,
        ),
        _set("shehper2024", SHEHPER, _ND, alpha_N=0.076, alpha_D=0.122, N_c=1.32e14, D_c=1.22e12),
    ),
    "kaplan-ns": (
        _set(
            "kaplan2020-table3",
            f"{KAPLAN}, table 3",
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
            f"{EPOCH}, the refit of Hoffmann's points",
            _TOTAL,
            E=1.8172,
            A=482.01,
            B=2085.43,
            alpha=0.3478,
            beta=0.3658,
        ),
        _set(
            "hoffmann2022",
            f"{HOFFMANN}, eq. 10",
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
            f"{HOFFMANN}, the TeX source's digits, as {EPOCH} quotes them",
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
    "farseer": (
        _set(
            "farseer2025",
            "Li et al. 2025 (Farseer), arXiv 2506.10972, the digits that github.com/PlanarG/active-sl quotes",
            {"N": "non-embedding parameters", "D": "tokens", "L": "bits per character of the paper's text"},
            s=-0.062465473,
            q=0.13,
            S=0.1284880679442551,
            A=-1.665630816,
            a=0.0458999999999619,
            E=3.133347198805445,
            B=230.73437075885855,
            b=-0.1729,
            Q=-1.544209554,
        ),
    ),
    "joint-experts": (
        _set(
            "ludziejewski2025",
            "Ludziejewski et al. 2025, arXiv 2502.05172, table 3",
            {"N": "active parameters with embeddings", "D": "tokens", "L": "nats per token"},
            a=35.91,
            alpha=-0.1889,
            delta=-0.2285,
            gamma=0.0098,
            b=35.98,
            beta=-0.1775,
            omega=0.5529,
            zeta=-0.0259,
            E_start=2.0732,
            E_max=290.4521,
            c=1.3637,
        ),
    ),
    "b-crit": (
        _set("kaplan2020-table5", f"{KAPLAN}, table 5", {"B_crit": "tokens"}, B_star=2.1e8, alpha_B=0.21),
        _set("shehper2024", SHEHPER, {"B_crit": "tokens"}, B_star=2.2e7, alpha_B=1 / 4.26),
    ),
    "frontier": (
        _set("kaplan2020-table6", f"{KAPLAN}, table 6", {**_PF, **_ND}, "C is C_min", N_e=1.3e9, p=0.73),
        _set(
            "kaplan2020-figure14",
            f"{KAPLAN}, figure 14",
            {**_PF, **_ND},
            "at a fixed batch",
            N_e=1.6e9,
            p=0.88,
        ),
        _set("shehper2024", SHEHPER, {**_PF, **_ND}, "at a fixed batch", N_e=2.8e9, p=0.90),
        _set("shehper2024-cmin", SHEHPER, {**_PF, **_ND}, "C is C_min", N_e=4.2e9, p=0.72),
    ),
    "position": (
        _set(
            "kaplan2020-figure20",
            f"{KAPLAN}, figure 20",
            {"T": "token index"},
            "774M parameters",
            a=2.3,
            b=5.4,
            c=0.62,
        ),
    ),
    "transfer": (
        _set(
            "hernandez2021-text", f"{HERNANDEZ}, text to Python", _CHARACTERS, k=1.9e4, alpha=0.18, beta=0.38
        ),
        _set(
            "hernandez2021-mix",
            f"{HERNANDEZ}, text and code to Python",
            _CHARACTERS,
            k=2.1e5,
            alpha=0.096,
            beta=0.38,
        ),
    ),
    "learning-rate": (
        _set("step2025", STEP, {"N": "non-vocabulary parameters", "D": "tokens"}, c=1.79, a=-0.713, b=0.307),
        _set(
            "porian2024", PORIAN, {"N": "parameters with head"}, c=0.0047 * 108e6 ** (1 / 3), a=-1 / 3, b=0.0
        ),
    ),
    "batch-size": (
        _set("step2025", STEP, {"B": "tokens"}, c=0.58, a=0.0, b=0.571),
        _set("porian2024", PORIAN, {"B": "tokens"}, c=160 * 2048 / 108e6 ** (2 / 3), a=2 / 3, b=0.0),
    ),
    "learning-rate-c": (_set("deepseek2024", DEEPSEEK, {"C": "FLOPs"}, c=0.3118, p=-0.1250),),
    "batch-size-c": (_set("deepseek2024", DEEPSEEK, {"C": "FLOPs", "B": "tokens"}, c=0.2920, p=0.3271),),
}

PUBLISHED: dict[str, dict[str, Published]] = {law: {p.name: p for p in sets} for law, sets in _BY_LAW.items()}
"""Law name -> set name -> constants."""
