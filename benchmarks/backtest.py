"""The combined forecast, against always using one law: the largest runs of published tables held back.

Of every table the highest 15 and 35 % of C, of N, of D and of D/N are held back. Laws are fitted and back-tested on the
rest alone, and each law, and the combination, predict what was held back. Printed: mean relative error (over tables,
and over sources with equal weight), the share of runs inside 80 and 95 % intervals, and the interval score (Gneiting &
Raftery 2007) of the 95 % interval of the log loss, per cent: its width, and 40 times the distance of runs outside.

Leave one source out: sharpness and prior of the weights are chosen on all other sources, then scored on that one.

Published tables are read from --data where that folder exists; `--simulated` takes tables from five laws, two noises
and two grids (a lab's and a laptop's).

Run: nice python benchmarks/backtest.py [--simulated] [--quick] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.laws.backtest import DEFAULT_LAWS, PRIOR, backtest, weigh
from allometry.laws.fit import fit
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


def simulated(quick: bool) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for number, (law, truth) in enumerate(TRUTHS.items()):
        for grid, (sizes, tokens) in GRIDS.items():
            for noise in (0.006,) if quick else (0.002, 0.006):
                rng = np.random.default_rng([number, len(grid), int(1e4 * noise)])
                N, D = (a.ravel() for a in np.meshgrid(sizes, tokens))
                loss = get(law).predict(truth, N=N, D=D) * np.exp(noise * rng.standard_normal(len(N)))
                yield law, f"{law}, {grid}, noise {noise:.1%}", pd.DataFrame({"N": N, "D": D, "loss": loss})


def published(folder: Path, quick: bool) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield published tables of runs, each read as its authors describe it; nothing where the folder is missing."""
    if not folder.exists():
        print(f"no published tables at {folder}")
        return
    points = pd.read_csv(folder / "kaplan/loss_vs_model_and_param.csv", header=None, names=["D", "loss", "N"])
    sizes = {"400K": 393216, "3M": 3e6, "25M": 25e6, "85M": 85e6, "302M": 302e6, "708M": 708e6}
    points["N"] = points["N"].str.strip('"').map(sizes)
    yield "Kaplan 2020", "figure 4", points.assign(D=10 ** points["D"])
    points = pd.read_csv(folder / "chinchilla/svg_extracted_data.csv").nsmallest(240, "loss")
    size, flops = points["Model Size"], points["Training FLOP"]
    yield (
        "Hoffmann 2022",
        "figure 4",
        pd.DataFrame({"N": size, "D": flops / 6 / size, "loss": points["loss"]}),
    )
    points = pd.read_csv(folder / "misfitting/scaling_results_last_ckpt_only.csv")
    best = points.loc[points.groupby(["N", "D"])["loss"].idxmin()]
    yield "(Mis)Fitting", "best of each N, D", best
    points = pd.read_csv(folder / "datablations/datablations_fit182.csv")
    fresh = points[points["unique_tokens"] >= 0.99 * points["tokens"]]
    yield (
        "Muennighoff 2023",
        "fresh data",
        fresh.rename(columns={"params": "N", "tokens": "D", "val_loss": "loss"}),
    )
    points = pd.read_csv(folder / "porian/isoflop_points.csv").rename(columns={"n": "N", "tokens": "D"})
    configs = points.groupby(["file", "config"])
    for i, ((file, config), rows) in enumerate(configs):
        if not quick or i % 5 == 0:
            yield "Porian 2024", f"{file.removeprefix('summary_')} {config}", rows
    points = pd.read_csv(folder / "gadre/models.csv")
    for name, rows in points.groupby("dataset"):
        yield "Gadre 2024", f"{name}, C4", rows.assign(loss=rows["loss_c4_val"])
    points = pd.read_csv(folder / "steplaw/dense_lr_bs_loss.csv")
    best = points.loc[points.groupby(["N", "D"])["smooth loss"].idxmin()]
    yield "Step Law", "best of each N, D", best.assign(loss=best["smooth loss"])
    parts = [pd.read_csv(folder / f"scalebench/farseer_{part}.csv") for part in ("train", "test")]
    yield "Farseer", "train and test", pd.concat(parts).drop_duplicates()


def splits(table: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    """Yield which rows are held back: the highest of each direction; the same rows once."""
    along = {"C": table["N"] * table["D"], "N": table["N"], "D": table["D"], "D/N": table["D"] / table["N"]}
    seen = set()
    for name, values in along.items():
        for share in (0.15, 0.35):
            held = (values > np.quantile(values, 1 - share, method="lower") * (1 + 1e-9)).to_numpy()
            few = held.sum() < 2 or (~held).sum() < 10 or held.mean() > 0.6
            if not few and held.tobytes() not in seen:
                seen.add(held.tobytes())
                yield name, held


@dataclass(frozen=True)
class Scored:
    """One table with some rows held back: the scores of every predictor, and the error under other weights."""

    source: str
    direction: str
    scores: pd.DataFrame
    settings: dict[tuple[float, bool], float]


LAWS = (*DEFAULT_LAWS, "rosenfeld")
SETTINGS = [(sharpness, prior) for sharpness in (1.0, 2.0, 4.0, 8.0) for prior in (True, False)]


def scored(source: str, direction: str, table: pd.DataFrame, held: np.ndarray) -> Scored:
    """Predict the rows held back by the combination and by each law."""
    known, new = table[~held].reset_index(drop=True), table[held]
    record = backtest(known, laws=DEFAULT_LAWS, bootstrap=60)
    fits = {**record.fits, "rosenfeld": fit(known, law="rosenfeld", bootstrap=60)}
    measured = np.log(new["loss"].to_numpy())
    ahead = {level: record.forecast(new, level) for level in (0.8, 0.95)}
    rows = {"combined": _scores(measured, ahead[0.8].value, *((f.low, f.high) for f in ahead.values()))}
    for law, fitted in fits.items():
        intervals = (fitted.prediction_interval(new, level) for level in (0.8, 0.95))
        rows[law] = _scores(measured, fitted.predict(new), *intervals)
    rows["best in hindsight"] = {
        "error": min(row["error"] for law, row in rows.items() if law in DEFAULT_LAWS)
    }
    logs = {law: np.log(fitted.predict(new)) for law, fitted in record.fits.items()}
    settings = {}
    for sharpness, prior in SETTINGS:
        weights = weigh(record.predictions, sharpness, PRIOR if prior else {})
        mean = sum(weight * logs[law] for law, weight in weights.items())
        settings[sharpness, prior] = float(np.mean(np.abs(np.expm1(mean - measured))))
    return Scored(source, direction, pd.DataFrame(rows).T, settings)


def _scores(
    measured: np.ndarray, value: np.ndarray, *intervals: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """Return mean relative error, coverage of the 80 and 95 % intervals, and the score of the latter."""
    (low80, high80), (low, high) = (np.log(interval) for interval in intervals)
    outside = np.maximum(low - measured, 0) + np.maximum(measured - high, 0)
    return {
        "error": float(np.mean(np.abs(np.expm1(np.log(value) - measured)))),
        "in 80": float(np.mean((low80 <= measured) & (measured <= high80))),
        "in 95": float(np.mean(outside == 0)),
        "score": float(np.mean(high - low + 2 / 0.05 * outside)),
    }


def summary(found: list[Scored]) -> pd.DataFrame:
    """Return a row a predictor, in per cent: errors over cases and over sources, coverage, median interval score."""
    rows = {}
    for name in found[0].scores.index:
        table = pd.DataFrame([case.scores.loc[name] for case in found]).assign(
            source=[case.source for case in found]
        )
        rows[name] = {
            "error": table["error"].mean(),
            "by source": table.groupby("source")["error"].mean().mean(),
            "worst source": max(
                table.groupby("source")["error"].mean()
                / pd.Series([c.scores.loc["chinchilla", "error"] for c in found])
                .groupby(table["source"].to_numpy())
                .mean()
            ),
            "in 80": table["in 80"].mean(),
            "in 95": table["in 95"].mean(),
            "score": table["score"].median(),
        }
    return 100 * pd.DataFrame(rows).T


def left_out(found: list[Scored]) -> pd.DataFrame:
    """Return, for each source, the error of the combination with the weights that are best on all other sources."""
    errors = pd.DataFrame([case.settings for case in found])
    errors = errors.groupby([case.source for case in found]).mean()
    single = (
        pd.DataFrame([case.scores["error"] for case in found]).groupby([case.source for case in found]).mean()
    )
    relative = errors.div(single["chinchilla"], axis=0)
    rows = {}
    for source in errors.index:
        sharpness, prior = relative.drop(source).mean().idxmin()
        rows[source] = {
            "chosen": f"{sharpness:g}, {'prior' if prior else 'flat'}",
            "combined": 100 * errors.loc[source].to_dict()[sharpness, prior],
            **{law: 100 * single.loc[source, law] for law in LAWS},
        }
    return pd.DataFrame(rows).T


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer tables")
    parser.add_argument("--simulated", action="store_true", help="tables made of known laws")
    default = Path(__file__).parents[1].parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default)
    options = parser.parse_args()
    tables = simulated(options.quick) if options.simulated else published(options.data, options.quick)
    found = []
    for source, name, table in tables:
        began = time.perf_counter()
        columns = table[["N", "D", "loss"]].dropna().reset_index(drop=True)
        for direction, held in splits(columns):
            try:
                found.append(scored(source, direction, columns, held))
            except AllometryError as error:
                print(f"  left out: {source}, {name}, by {direction}: {error.message}")
        print(
            f"{source}, {name}: {len(found)} cases so far ({time.perf_counter() - began:.0f} s)", flush=True
        )
    print(f"\n{len(found)} cases, per cent; 'worst source': of the error of chinchilla")
    print(summary(found).round(2).to_string())
    print("\nleave one source out")
    print(left_out(found).to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
