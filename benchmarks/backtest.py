"""The combined forecast, against always using one law: the largest runs of published tables held back.

Of every table the highest 15 and 35 % of C, of N, of D and of D/N are held back. Laws are fitted and back-tested on the
rest alone, and each law, and the combination, predict what was held back. Printed: mean relative error (over tables,
and over sources with equal weight), the share of runs inside 80 and 95 % intervals, and the interval score (Gneiting &
Raftery 2007) of the 95 % interval of the log loss, per cent: its width, and 40 times the distance of runs outside.

Leave one source out: sharpness and prior of the weights are chosen on all other sources, then scored on that one.

Published tables are those of the atlas that were fetched; `--simulated` takes tables from five laws, two noises and two
grids (a lab's and a laptop's).

Run: nice python benchmarks/backtest.py [--simulated] [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.laws.backtest import DEFAULT_LAWS, PRIOR, backtest, weigh
from allometry.laws.fit import fit
from allometry.laws.zoo import get
from allometry.sources.catalogue import table
from allometry.sources.fetch import state
from allometry.sources.source import SOURCES

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


def published(quick: bool) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the tables of the atlas that hold N, D and a loss: of runs that differ in rate or batch the best."""
    for source in SOURCES.all().values():
        parts = _PARTS.get(source.id, ())
        if parts and not state(source).complete:
            print(f"not fetched, so left out: {source.id} (allometry atlas fetch {source.id})")
            continue
        for i, part in enumerate(list(source.parts) if parts == ALL else parts):
            if quick and i % 5:
                continue
            rows = table(f"atlas:{source.id}/{part}")[0]
            if source.id == "hoffmann2022":
                rows = rows[rows["split"] == "fitted"]
            if "unique" in rows:
                rows = rows[rows["unique"] >= 0.99 * rows["D"]]
            if source.id in ("misfitting2025", "steplaw2025"):
                rows = rows.loc[rows.groupby(["N", "D"])["loss"].idxmin()]
            yield source.id, part, rows


ALL = ("*",)
_PARTS = {
    "kaplan2020": ("size-and-data",), "hoffmann2022": ALL, "muennighoff2023": ("fitted",), "porian2024": ALL,
    "gadre2024": ALL, "bhagia2024": ALL, "misfitting2025": ("final",), "steplaw2025": ("dense",),
    "gemstones2025": ("cooldown-end",), "farseer2025": ALL,
}  # fmt: skip
"""Source -> parts whose rows are whole runs of several sizes and tokens."""


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
    """One table with some rows held back: the scores of every predictor, and the error under other weights.

    `share` of the rows are held back; the farthest has `beyond` times the compute of the most expensive known one.
    """

    source: str
    direction: str
    share: float
    beyond: float
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
    compute = table["N"] * table["D"]
    beyond = float(compute[held].max() / compute[~held].max())
    return Scored(source, direction, float(held.mean()), beyond, pd.DataFrame(rows).T, settings)


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
    options = parser.parse_args()
    tables = simulated(options.quick) if options.simulated else published(options.quick)
    found = []
    for source, name, rows in tables:
        began = time.perf_counter()
        columns = rows[["N", "D", "loss"]].dropna().reset_index(drop=True)
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
