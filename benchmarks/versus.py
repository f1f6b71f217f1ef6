"""Simulated ladders of recipes with known multipliers: how often do the intervals of `versus` hold them?

    python benchmarks/versus.py [--tables 200] [--seed 0]

Prints, a design a row, the share of tables whose nominal 80 % and 95 % intervals hold the planted multiplier of
compute at the largest scale, its growth with ten times the compute, and the multiplier that a new pair at ten
times the largest scale shows (with its own noise); and how often a verdict claims a difference. Losses follow the
constants of Besiroglu et al. 2024, with noise of a run, of a pair (order of batches, evaluation text) and of a
trunk where horizons continue one run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from allometry.laws.versus import versus

E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658
CENTRE = 6 * 1e7 * 2e8
"""Compute at which a planted multiplier is that of the design."""

DESIGNS: dict[str, dict[str, Any]] = {
    "grid, A against A": {},
    "grid, 1.3 x": {"multiplier": 1.3},
    "grid, 0.8 x, grows 1.1 x a decade": {"multiplier": 0.8, "growth": 1.1},
    "one ratio of D to N, 1.2 x": {"multiplier": 1.2, "horizons": (20.0,), "sizes": 7},
    "shared trunks, A against A": {"trunk": 0.004},
    "shared trunks, 1.3 x": {"trunk": 0.004, "multiplier": 1.3},
    "four sizes, 1.3 x": {"multiplier": 1.3, "sizes": 4},
    "regret that differs by cell, 1.3 x": {"multiplier": 1.3, "noise": 0.006},
}


def loss(n: Any, d: Any) -> Any:
    """Return the baseline's loss."""
    return E + A / n**ALPHA + B / d**BETA


def log_multiplier(c: Any, multiplier: float, growth: float) -> Any:
    """Return the planted log m at a compute."""
    return np.log(multiplier) + np.log(growth) * np.log10(c / CENTRE)


def table(
    rng: np.random.Generator, *, multiplier: float = 1.0, growth: float = 1.0, sizes: int = 6,
    horizons: tuple[float, ...] = (5.0, 20.0, 80.0), noise: float = 0.003, pair: float = 0.004, trunk: float = 0.0,
) -> pd.DataFrame:  # fmt: skip
    """Return runs of two recipes, one row a run."""
    rows = []
    for n in np.geomspace(1e6, 1e8, sizes):
        trunks = trunk * rng.standard_normal(2)
        for ratio in horizons:
            d, common = n * ratio, pair * rng.standard_normal()
            for i, recipe in enumerate(("base", "changed")):
                half = 0.5 * i * log_multiplier(6 * n * d, multiplier, growth)
                exact = loss(n * np.exp(half), d * np.exp(half))
                noisy = exact * np.exp(common + trunks[i] + noise * rng.standard_normal())
                run = f"{recipe}-{n:.0f}" if trunk else f"{recipe}-{n:.0f}-{ratio:g}"
                rows.append((recipe, run, n, d, noisy))
    return pd.DataFrame(rows, columns=["recipe", "run", "N", "D", "loss"])


def measure(design: Mapping[str, Any], tables: int, seed: int) -> dict[str, float]:
    """Return shares over simulated tables of one design."""
    planted = {"multiplier": design.get("multiplier", 1.0), "growth": design.get("growth", 1.0)}
    held: list[dict[str, float]] = []
    for number in range(tables):
        rng = np.random.default_rng([seed, number])
        (found,) = versus(table(rng, **design), by="recipe").comparisons
        truth = float(np.exp(log_multiplier(found.C, **planted)))
        row = {"claims": float(found.verdict.startswith(("helps", "hurts")))}
        for level, name in ((0.8, "80"), (0.95, "95")):
            low, high = found.at(level)
            row[f"m {name}"] = low <= truth <= high
            if found.growth is not None:
                low, high = found.growth_at(level)
                row[f"growth {name}"] = low <= planted["growth"] <= high
        row["ratio"] = found.compute[0] / truth
        row["width"] = found.compute[2] / found.compute[1]
        held.append(row)
    frame = pd.DataFrame(held)
    out = frame.drop(columns=["ratio", "width"]).mean().to_dict()
    return {
        **out,
        "median ratio": float(frame["ratio"].median()),
        "median width": float(frame["width"].median()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pd.set_option("display.width", 200)
    rows = {}
    for name, design in DESIGNS.items():
        rows[name] = measure(design, options.tables, options.seed)
        print(name, {k: round(float(v), 3) for k, v in rows[name].items()}, flush=True)


if __name__ == "__main__":
    main()
