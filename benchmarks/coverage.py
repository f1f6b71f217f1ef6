"""Coverage of the intervals: fits to tables simulated from known laws, counted. Prints percent against 80
and 95.

Run: nice python benchmarks/coverage.py [--tables 500] [--only NAME]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.laws.fit import fit
from allometry.laws.law import evaluate
from allometry.laws.result import FitResult
from allometry.laws.zoo import get

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Design:
    """A table to simulate: a law with known parameters, the inputs of its runs, and the noise of log losses.

    `points` measurements share the inputs' row as one run (with half of the noise's variance in common).
    `beyond` is the input at which the law, and a new run, are predicted.

    With `trunk`, (runs,) numbers, runs branch off trunks: those of one trunk have the share `shared` of the
    variance in common, and the table a column that says so. `of_size` is that share for runs of one N, whatever
    their seed: a law's form is off by size. All runs, and the new one, are evaluated on one set, which is off the
    text by a factor whose logarithm has the standard deviation `evaluation`; the truth is of the text.
    """

    law: str
    parameters: Mapping[str, float]
    inputs: Mapping[str, Array]
    noise: float
    objective: str = "huber-log"
    beyond: Mapping[str, float] = field(default_factory=dict)
    points: int = 1
    trunk: NDArray[np.int_] | None = None
    shared: float = 0.0
    of_size: float = 0.0
    evaluation: float = 0.0
    named: bool = True

    def branches(self, rng: np.random.Generator) -> pd.DataFrame:
        """Simulate a table of branches with columns of the law's symbols, `run` and (if `named`) `trunk`; `attrs`
        holds the "evaluation" set's factor.
        """
        law, trunk = get(self.law), self.trunk
        assert trunk is not None
        truth, n = law.predict(self.parameters, **self.inputs), len(trunk)
        size = np.unique(self.inputs["N"], return_inverse=True)[1]
        own = 1 - self.shared - self.of_size
        noise = sum(
            np.sqrt(share) * rng.standard_normal(int(group.max()) + 1)[group]
            for share, group in ((own, np.arange(n)), (self.shared, trunk), (self.of_size, size))
        )
        factor = float(np.exp(self.evaluation * rng.standard_normal()))
        table = pd.DataFrame({**self.inputs, law.output: factor * truth * np.exp(self.noise * noise)})
        table["run"] = [f"run-{i}" for i in range(n)]
        if self.named:
            table["trunk"] = [f"trunk-{i}" for i in trunk]
        table.attrs["evaluation"] = factor
        return table

    def table(self, rng: np.random.Generator) -> pd.DataFrame:
        """Simulate one table with columns of the law's symbols and `run`."""
        if self.trunk is not None:
            return self.branches(rng)
        law = get(self.law)
        inputs = {n: np.repeat(x, self.points) for n, x in self.inputs.items()}
        truth = law.predict(self.parameters, **inputs)
        runs = len(truth) // self.points
        noise = rng.standard_normal(len(truth))
        if self.points > 1:
            noise = (noise + np.repeat(rng.standard_normal(runs), self.points)) / np.sqrt(2)
        run = np.repeat([f"run-{i}" for i in range(runs)], self.points)
        return pd.DataFrame({**inputs, law.output: truth * np.exp(self.noise * noise), "run": run})


def coverage(
    design: Design, *, tables: int = 500, bootstrap: int = 200, seed: int = 0, resample: str = "auto"
) -> pd.DataFrame:
    """Measure how often the intervals of fits to simulated tables hold the true values, in percent.

    One row a quantity (fitted parameters other than amounts, quantities derived from the law, the law at
    `beyond`, a new run there), columns `80` and `95` for the nominal levels, and `tables`. `attrs["failed"]` is the
    percentage of fits that said of their law, which is right, that it does not extrapolate.
    """
    rng = np.random.default_rng(seed)
    hits: dict[str, list[tuple[bool, bool]]] = {}
    failed = 0
    for i in range(tables):
        table = design.table(rng)
        result = fit(
            table,
            law=design.law,
            objective=design.objective,
            bootstrap=bootstrap,
            seed=i,
            resample=resample,
        )
        failed += result.selftest is not None and result.selftest.failed
        for name, held in _held(design, result, rng, table.attrs.get("evaluation", 1.0)).items():
            hits.setdefault(name, []).append(held)
    rows = {name: 100 * np.mean(held, axis=0) for name, held in hits.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["80", "95"])
    frame.attrs["failed"] = 100 * failed / tables
    return frame.assign(tables=tables)


def _held(
    design: Design, result: FitResult, rng: np.random.Generator, factor: float
) -> dict[str, tuple[bool, bool]]:
    """Return whether the 80 and 95 % intervals of each quantity hold its true value; a new run is evaluated on the
    set that is off by `factor`.
    """
    law, levels = result.law, (0.80, 0.95)
    found = {}
    for p in law.parameters:
        if p.anchor is None:
            found[p.name] = tuple(
                _within(design.parameters[p.name], result.interval(p.name, lv)) for lv in levels
            )
    for name, text in law.derived.items():
        truth = float(evaluate(text, design.parameters))
        found[name] = tuple(_within(truth, result.derived(text, lv)[1:]) for lv in levels)
    if design.beyond:
        at = {n: [v] for n, v in design.beyond.items()}
        truth = float(law.predict(design.parameters, **design.beyond))
        measured = factor * truth * float(np.exp(design.noise * rng.standard_normal()))
        found["law beyond"] = tuple(_within(truth, result.interval_at(at, lv)) for lv in levels)
        found["new run beyond"] = tuple(
            _within(measured, result.prediction_interval(at, lv)) for lv in levels
        )
    return {name: (bool(low), bool(high)) for name, (low, high) in found.items()}


def _within(value: float, interval: tuple[float | Array, ...]) -> bool:
    low, high = (float(np.squeeze(end)) for end in interval)
    return low <= value <= high


CHINCHILLA = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


def grid(sizes: int, horizons: int, repeats: int = 1) -> dict[str, np.ndarray]:
    """Return N from 10M to 1B and D from 200M to 20B tokens, crossed."""
    n, d = np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(2e8, 2e10, horizons))
    return {"N": np.tile(n.ravel(), repeats), "D": np.tile(d.ravel(), repeats)}


BEYOND = {"N": 1e10, "D": 2e11}


def ladder(sizes: int = 8, seeds: int = 4) -> dict[str, np.ndarray]:
    """Return the design of our own grids: columns N, D and trunk of 72 runs of 11 trunks.

    Eight sizes, a factor of 110 apart, each to horizons in steps of a third of an octave, four of them common to
    all; smaller ones longer; and further seeds at one size to the common horizons.
    """
    rows = []
    for trunk, n in enumerate(np.geomspace(5e3, 5.5e5, sizes)):
        levels = 4 + round(3 * 0.35 * np.log2(5.5e5 / n))
        rows += [(n, 1.3e6 * 2 ** (level / 3), trunk) for level in range(levels)]
    repeated = sorted({n for n, _, _ in rows})[2]
    for trunk in range(sizes, sizes + seeds - 1):
        rows += [(repeated, 1.3e6 * 2 ** (level / 3), trunk) for level in range(4)]
    n, d, trunk = np.array(rows).T
    return {"N": n, "D": d, "trunk": trunk.astype(int)}


LADDER = ladder()
BRANCHES: dict[str, Any] = {
    "inputs": {name: LADDER[name] for name in ("N", "D")}, "trunk": LADDER["trunk"], "noise": 0.006,
    "beyond": {"N": 2.2e6, "D": 5.2e6},
}  # fmt: skip
OURS = {"E": 0.98, "A": 29.0, "B": 13000.0, "alpha": 0.46, "beta": 0.78}
OURS_KAPLAN = {"alpha_N": 0.15, "alpha_D": 0.24, "N_c": 1.4e6, "D_c": 2.5e6}
DESIGNS = {
    "chinchilla, 16 runs": Design(
        law="chinchilla", parameters=CHINCHILLA, inputs=grid(4, 4), noise=0.005, beyond=BEYOND
    ),
    "chinchilla, 36 runs": Design(
        law="chinchilla", parameters=CHINCHILLA, inputs=grid(6, 6), noise=0.01, beyond=BEYOND
    ),
    "chinchilla, 36 runs, least squares": Design(
        law="chinchilla",
        parameters=CHINCHILLA,
        inputs=grid(6, 6),
        noise=0.01,
        beyond=BEYOND,
        objective="lsq-log",
    ),
    "chinchilla, 240 runs": Design(
        law="chinchilla", parameters=CHINCHILLA, inputs=grid(12, 20), noise=0.01, beyond=BEYOND
    ),
    "chinchilla, 25 runs of 4 points": Design(
        law="chinchilla", parameters=CHINCHILLA, inputs=grid(5, 5), noise=0.01, beyond=BEYOND, points=4
    ),
    "kaplan, 30 runs": Design(
        law="kaplan",
        parameters={"alpha_N": 0.076, "alpha_D": 0.103, "N_c": 6.4e13, "D_c": 1.8e13},
        inputs=grid(5, 6),
        noise=0.01,
        beyond=BEYOND,
        objective="lsq-log",
    ),
    "chinchilla, 11 trunks": Design(law="chinchilla", parameters=OURS, shared=0.86, **BRANCHES),
    "chinchilla, 11 trunks, taken as runs": Design(
        law="chinchilla", parameters=OURS, shared=0.86, named=False, **BRANCHES
    ),
    "chinchilla, 11 trunks, errors by size": Design(
        law="chinchilla", parameters=OURS, shared=0.26, of_size=0.6, **BRANCHES
    ),
    "chinchilla, 11 trunks, one evaluation set": Design(
        law="chinchilla", parameters=OURS, shared=0.86, evaluation=0.01, **BRANCHES
    ),
    "kaplan, 11 trunks": Design(
        law="kaplan", parameters=OURS_KAPLAN, shared=0.86, objective="lsq-log", **BRANCHES
    ),
    "kaplan, 11 trunks, one evaluation set": Design(
        law="kaplan", parameters=OURS_KAPLAN, shared=0.86, evaluation=0.01, objective="lsq-log", **BRANCHES
    ),
    "power law, 7 runs": Design(
        law="power",
        parameters={"A": 20.0, "alpha": 0.1},
        inputs={"X": np.geomspace(1e5, 1e8, 7)},
        noise=0.01,
        beyond={"X": 1e9},
    ),
    "power law above a floor, 12 runs": Design(
        law="power-offset",
        parameters={"E": 1.8, "A": 50.0, "alpha": 0.25},
        inputs={"X": np.geomspace(1e5, 1e9, 12)},
        noise=0.01,
        beyond={"X": 1e10},
        objective="lsq-log",
    ),
}


def product(**axes: Array) -> dict[str, Array]:
    """Return every combination of the values of the axes."""
    crossed = np.meshgrid(*axes.values())
    return {name: x.ravel() for name, x in zip(axes, crossed, strict=True)}


OTHER_INPUTS = {
    "farseer, 64 runs": Design(
        law="farseer",
        parameters=dict(get("farseer").published["farseer2025"].values),
        inputs=product(N=np.geomspace(2e8, 6e9, 8), D=np.geomspace(2e9, 2e11, 8)),
        noise=0.002,
        beyond={"N": 2e10, "D": 4e11},
        objective="lsq-log",
    ),
    "joint-experts, 100 runs": Design(
        law="joint-experts",
        parameters=dict(get("joint-experts").published["ludziejewski2025"].values),
        inputs=product(
            N=np.geomspace(1e8, 2e9, 5), D=np.geomspace(1e9, 3e10, 5), n_E=np.array([1.0, 4.0, 8.0, 32.0])
        ),
        noise=0.003,
        beyond={"N": 5e9, "D": 1e11, "n_E": 16.0},
        objective="lsq-log",
    ),
    "parallel, 24 runs": Design(
        law="parallel",
        parameters={"E": 1.3, "A": 1.7e8, "alpha": 0.2, "k": 0.34},
        inputs=product(N=np.geomspace(5e8, 4e9, 6), P=np.array([1.0, 2.0, 4.0, 8.0])),
        noise=0.002,
        beyond={"N": 8e9, "P": 8.0},
        objective="lsq-log",
    ),
    "looped, 96 runs": Design(
        law="looped",
        parameters={"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37, "phi": 0.46},
        inputs=product(
            N_once=np.geomspace(3e7, 3e8, 2), N_rec=np.geomspace(3e7, 1e9, 4), r=np.array([1.0, 2.0, 8.0]),
            D=np.geomspace(1e9, 3e10, 4),
        ),
        noise=0.003,
        beyond={"N_once": 5e8, "N_rec": 3e9, "r": 4.0, "D": 6e10},
        objective="lsq-log",
    ),
    "precision, 72 runs": Design(
        law="precision",
        parameters={**CHINCHILLA, "gamma_w": 2.7, "gamma_a": 2.2, "gamma_kv": 1.0},
        inputs=product(
            N=np.geomspace(3e7, 5e8, 3), D=np.geomspace(2e9, 3e10, 3), P_w=np.array([3.0, 12.0]),
            P_a=np.array([3.0, 12.0]), P_kv=np.array([3.0, 12.0]),
        ),
        noise=0.003,
        beyond={"N": 1e9, "D": 5e10, "P_w": 8.0, "P_a": 8.0, "P_kv": 8.0},
        objective="lsq-log",
    ),
    "mixing-3, 20 runs": Design(
        law="mixing-3",
        parameters={"E": 2.1, "k": 1.4, "t_1": -2.2, "t_2": -0.7},
        inputs=product(r_1=np.linspace(0, 0.6, 5), r_2=np.linspace(0, 0.4, 4)),
        noise=0.003,
        beyond={"r_1": 0.8, "r_2": 0.1},
        objective="lsq-log",
    ),
}  # fmt: skip
"""Tables of laws with inputs besides N and D, or other powers of them: constants as printed where a paper has them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=500)
    parser.add_argument("--bootstrap", type=int, default=400)
    parser.add_argument("--only", default="")
    parser.add_argument("--resample", default="auto", choices=["auto", "runs", "noise"])
    options = parser.parse_args()
    for name, design in {**DESIGNS, **OTHER_INPUTS}.items():
        if options.only in name:
            began = time.process_time()
            frame = coverage(
                design, tables=options.tables, bootstrap=options.bootstrap, resample=options.resample
            )
            print(f"\n{name}  ({design.objective}, {time.process_time() - began:.0f} s)")
            print(frame.round(1).to_string())
            print(f"said not to extrapolate: {frame.attrs['failed']:.1f} % of the tables", flush=True)


if __name__ == "__main__":
    main()
