"""The combined forecast against always using the Chinchilla form, on tables whose dear runs were held back.

Every table is cut at 60 % of its rows, cheapest first. The laws are back-tested within the cheap part
only, the combination is made from that record, and both predict the dear part. Published tables are
read from --data where that folder exists; simulated ones come from five laws, two noises and two grids
(a lab's and a laptop's).

Run: nice python benchmarks/backtest.py [--quick] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from allometry.laws.backtest import DEFAULT_LAWS, backtest
from allometry.laws.zoo import get

TRUTHS = {
    "chinchilla": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
    "chinchilla-tied": {"E": 1.9, "A": 500.0, "B": 1400.0, "alpha": 0.35},
    "kaplan": {"alpha_N": 0.076, "alpha_D": 0.103, "N_c": 6.4e13, "D_c": 1.8e13},
    "skaling": {"E": 1.5, "A": 60.0, "a": 0.35, "b": 0.35, "R": 1.5, "k": 0.6},
    "rosenfeld": {"E": 1.5, "A": 300.0, "B": 900.0, "alpha": 0.3, "beta": 0.33, "L_0": 6.0},
}
GRIDS = {
    "lab": (np.geomspace(1e7, 2e9, 8), np.geomspace(3e8, 6e10, 7)),
    "laptop": (np.geomspace(3e4, 3e6, 6), np.geomspace(1e6, 1e8, 5)),
}


def simulated(quick: bool) -> Iterator[tuple[str, pd.DataFrame]]:
    for number, (law, truth) in enumerate(TRUTHS.items()):
        for grid, (sizes, tokens) in GRIDS.items():
            for noise in (0.006,) if quick else (0.002, 0.006):
                rng = np.random.default_rng([number, len(grid), int(1e4 * noise)])
                N, D = (a.ravel() for a in np.meshgrid(sizes, tokens))
                loss = get(law).predict(truth, N=N, D=D) * np.exp(noise * rng.standard_normal(len(N)))
                yield f"{law}, {grid}, noise {noise:.1%}", pd.DataFrame({"N": N, "D": D, "loss": loss})


def published(folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield published tables of runs, each read as its authors describe it; nothing where the folder is missing."""
    if not folder.exists():
        print(f"no published tables at {folder}")
        return
    points = pd.read_csv(folder / "kaplan/loss_vs_model_and_param.csv", header=None, names=["D", "loss", "N"])
    sizes = {"400K": 393216, "3M": 3e6, "25M": 25e6, "85M": 85e6, "302M": 302e6, "708M": 708e6}
    points["N"] = points["N"].str.strip('"').map(sizes)
    yield "Kaplan 2020, figure 4", points.assign(D=10 ** points["D"])
    points = pd.read_csv(folder / "chinchilla/svg_extracted_data.csv").nsmallest(240, "loss")
    size, flops = points["Model Size"], points["Training FLOP"]
    yield "Hoffmann 2022, figure 4", pd.DataFrame({"N": size, "D": flops / 6 / size, "loss": points["loss"]})
    points = pd.read_csv(folder / "misfitting/scaling_results_last_ckpt_only.csv")
    yield "Li 2025, last checkpoints", points[["N", "D", "loss"]]
    points = pd.read_csv(folder / "datablations/datablations_fit182.csv")
    fresh = points[points["unique_tokens"] >= 0.99 * points["tokens"]]
    names = {"params": "N", "tokens": "D", "val_loss": "loss"}
    yield "Muennighoff 2023, fresh data", fresh.rename(columns=names)[list(names.values())]


def errors(table: pd.DataFrame, share: float = 0.6) -> dict[str, float]:
    """Return the mean relative error on the expensive part: of the combination, of each law, and of the best
    law in hindsight.
    """
    cost = table["N"] * table["D"]
    cheap = cost <= np.quantile(cost, share, method="lower")
    record = backtest(table[cheap].reset_index(drop=True), cuts=(0.5, 0.7, 0.85), bootstrap=0)
    ahead = record.forecast(table[~cheap])
    truth = table.loc[~cheap, "loss"].to_numpy()
    found = {"combined": np.abs(ahead.value / truth - 1).mean()}
    for law, fitted in record.fits.items():
        found[law] = np.abs(fitted.predict(table[~cheap]) / truth - 1).mean()
    return found | {"best in hindsight": min(found[law] for law in DEFAULT_LAWS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one noise only")
    default = Path(__file__).parents[1].parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default)
    options = parser.parse_args()
    rows = {}
    for name, table in [*published(options.data), *simulated(options.quick)]:
        began = time.perf_counter()
        rows[name] = errors(table)
        line = "  ".join(f"{law} {100 * error:.2f} %" for law, error in rows[name].items())
        print(f"{name:36s} {line}   ({time.perf_counter() - began:.0f} s)", flush=True)
    table = pd.DataFrame(rows).T
    print("\nmean relative error over the tables, in percent")
    print((100 * table.mean()).round(2).to_string())
    wins = (table["combined"] < table["chinchilla"] * 1.001).mean()
    ratio = table["combined"].mean() / table["chinchilla"].mean()
    print(f"\ncombined: {ratio:.2f} of the error of Chinchilla; no worse on {wins:.0%} of the tables")


if __name__ == "__main__":
    main()
