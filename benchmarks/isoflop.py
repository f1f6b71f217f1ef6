"""Exponents of isoFLOP: published ones re-derived, and how often intervals hold a known one.

Run: nice python benchmarks/isoflop.py [FOLDER of isoflop_points.csv and published.csv] [--tables 60]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from allometry.laws.isoflop import Method, isoflop
from allometry.laws.zoo import get

METHODS = [method for method in get_args(Method) if method != "envelope"]
SIZES = np.geomspace(5e6, 9e8, 16)


def published(folder: Path) -> pd.DataFrame:
    """Return one row a configuration and method: the printed exponent and ours, each with its interval."""
    points = pd.read_csv(folder / "isoflop_points.csv")
    points = points.rename(columns={"n": "N", "tokens": "D", "flops": "C"})
    rows = []
    for printed in pd.read_csv(folder / "published.csv").itertuples():
        table = points[(points.file == printed.file) & (points.config == printed.config)]
        for method in METHODS:
            found = isoflop(table[["N", "D", "C", "loss"]].reset_index(drop=True), method=method)
            low, high = found.a.interval(0.95)
            rows.append(
                {"configuration": printed.config, "method": method, "printed": printed.a, "ours": found.a.value,
                 "low": low, "high": high, "inside": low <= printed.a <= high,
                 "wider": (high - low) / (printed.hi - printed.lo), "noise": found.noise}
            )  # fmt: skip
    return pd.DataFrame(rows)


def coverage(tables: int) -> pd.DataFrame:
    """Return how often 80 and 95 % intervals hold the exponent of a known law, by method and noise of a run."""
    law = get("chinchilla")
    truth = law.published["besiroglu2024"].values
    exponent = truth["beta"] / (truth["alpha"] + truth["beta"])
    scale = truth["alpha"] * truth["A"] / (truth["beta"] * truth["B"])
    rows = []
    for noise in (0.001, 0.003):
        held = {(method, level): 0 for method in METHODS for level in (0.8, 0.95)}
        for seed in range(tables):
            rng = np.random.default_rng(seed)
            cells = [
                (n, c / (6 * n))
                for c in 4e16 * 2.0 ** np.arange(12)
                for n in SIZES
                if abs(np.log(n / (scale ** (1 / (truth["alpha"] + truth["beta"])) * (c / 6) ** exponent)))
                < 1.8
            ]
            table = pd.DataFrame(cells, columns=["N", "D"])
            table["loss"] = law.predict(truth, N=table.N, D=table.D)
            table["loss"] *= np.exp(noise * rng.standard_normal(len(table)))
            for method in METHODS:
                a = isoflop(table, method=method, bootstrap=300).a
                for level in (0.8, 0.95):
                    low, high = a.interval(level)
                    held[method, level] += low <= exponent <= high
        rows += [
            {"method": m, "noise": noise, "level": level, "held": count / tables}
            for (m, level), count in held.items()
        ]
    return pd.DataFrame(rows)


def main() -> None:
    """Print both tables."""
    default = Path(__file__).parents[1].parent / "shared" / "data" / "porian"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--tables", type=int, default=60)
    given = parser.parse_args()
    if given.folder.is_dir():
        found = published(given.folder)
        print(found.to_string(index=False, float_format="%.4f"))
        off = (found["ours"] - found["printed"]).abs()
        for method, part in found.groupby("method"):
            print(
                f"{method}: {part['inside'].sum()} of {len(part)} inside, mean difference {off[part.index].mean():.4f},"
                f" intervals {part['wider'].median():.2f} times as wide (median), {part['wider'].max():.2f} (most)"
            )
    print(coverage(given.tables).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
