"""Constants that papers printed for the laws of the zoo, by law and by name of the set."""

from __future__ import annotations

from allometry.laws.law import Published

_KAPLAN = "Kaplan et al. 2020, arXiv 2001.08361"


def _set(
    name: str, source: str, units: dict[str, str] | None = None, note: str = "", **values: float
) -> Published:
    return Published(name=name, values=values, source=source, units=units or {}, note=note)


_TOKENS = {"N": "non-embedding parameters", "D": "tokens"}

_BY_LAW: dict[str, tuple[Published, ...]] = {
    "kaplan-n": (_set("kaplan2020-table5", f"{_KAPLAN}, table 5", _TOKENS, N_c=8.8e13, alpha_N=0.076),),
    "kaplan-d": (_set("kaplan2020-table5", f"{_KAPLAN}, table 5", _TOKENS, D_c=5.4e13, alpha_D=0.095),),
    "kaplan": (
        _set(
            "kaplan2020-table2",
            f"{_KAPLAN}, table 2",
            _TOKENS,
            alpha_N=0.076,
            alpha_D=0.103,
            N_c=6.4e13,
            D_c=1.8e13,
        ),
    ),
}

PUBLISHED: dict[str, dict[str, Published]] = {law: {p.name: p for p in sets} for law, sets in _BY_LAW.items()}
"""Law name -> set name -> constants."""
