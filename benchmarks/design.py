"""Runs chosen one batch at a time from a pool: how near does a tenth of a table's budget come to the fit of all of it?

The three tasks of ScaleBench (arXiv 2604.22753) that lie in ../shared/data/scalebench, scored as there: R^2 on the
larger runs, of which only the inputs are known to the design. A tenth of the budget goes to runs that span the law (a
half and a quarter were tried too: within .04 at 10 %); then a fit, the runs of `next_runs` for a part of what is left,
a fit, and so on. Costs are those of the paper: 6ND, N n_E, N.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.laws.fit import fit
from allometry.laws.result import FitResult
from allometry.laws.zoo import get
from allometry.planner import next_runs

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "scalebench"


@dataclass(frozen=True)
class Task:
    """A law, the columns of its inputs and output, what a run costs, and the published R^2: at 10 %, with all data."""

    law: str
    columns: dict[str, str]
    cost: str
    published: tuple[float, float]


TASKS = {
    "farseer": Task("farseer", {"N": "N", "D": "D", "L": "loss"}, "6*N*D", (0.93, 0.91)),
    "moe": Task(
        "experts",
        {"N": "dense_parameter_count", "n_E": "num_experts", "L": "loss_validation"},
        "N*n_E",
        (0.83, 0.81),
    ),
    "parallel": Task("parallel", {"N": "num_params", "P": "parallel_size", "L": "loss"}, "N", (0.99, 0.99)),
}


def tables(name: str, task: Task) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Return (pool, larger runs) of each group of a task, with the law's symbols as columns."""
    both = [pd.read_csv(DATA / f"{name}_{part}.csv") for part in ("train", "test")]
    named = [
        frame.rename(columns={column: symbol for symbol, column in task.columns.items()})[
            [*task.columns, "group"]
        ]
        for frame in both
    ]
    return [
        tuple(f[f["group"] == group].reset_index(drop=True) for f in named)
        for group in named[0]["group"].unique()
    ]


def first_runs(pool: pd.DataFrame, law: str, price: np.ndarray, budget: float) -> list[int]:
    """Return runs that span the law for about a tenth of the budget: farthest from each other in log inputs."""
    names = list(get(law).inputs)
    wanted = len(get(law).parameters) + 2
    x = np.log(pool[names].to_numpy(float))
    x = (x - x.min(axis=0)) / np.maximum(np.ptp(x, axis=0), 1e-9)
    chosen, left = [int(np.argmin(price))], budget / 10 - price.min()
    while len(chosen) < wanted:
        distance = np.min(np.linalg.norm(x[:, None] - x[chosen][None], axis=2), axis=1)
        distance[price > left / (wanted - len(chosen)) * 2] = -1
        pick = int(distance.argmax())
        if distance[pick] <= 0:
            break
        chosen.append(pick)
        left -= price[pick]
    return chosen


def designed(
    pool: pd.DataFrame, target: pd.DataFrame, task: Task, share: float, rounds: int = 4
) -> FitResult | None:
    """Return the fit to runs chosen within `share` of the cost of the whole pool; None where they determine nothing."""
    names = list(get(task.law).inputs)
    price = pool.eval(task.cost).to_numpy(float)
    budget = share * price.sum()
    chosen = first_runs(pool, task.law, price, budget)
    fitted = None
    for i in range(rounds + 1):
        try:
            fitted = fit(pool.loc[chosen], law=task.law, objective="lsq-log", bootstrap=0, test=False)
        except AllometryError:
            fitted = None
        left = budget - price[chosen].sum()
        rest = pool.drop(index=chosen)
        affordable = rest[price[rest.index] <= left]
        if i == rounds or affordable.empty:
            break
        if fitted is None:
            extra = affordable.index[np.argsort(price[affordable.index])[:2]]
            chosen += [int(k) for k in extra]
            continue
        part = left if i == rounds - 1 else left / (rounds - i)
        part = max(part, price[affordable.index].min())
        try:
            design = next_runs(
                fitted, budget=part, target=target[names], candidates=affordable, cost=task.cost, most=200,
                noise=max(fitted.rms, 1e-3),
            )  # fmt: skip
        except AllometryError:
            break
        taken = design.runs[names].merge(affordable[names].reset_index(), on=names)["index"].drop_duplicates()
        chosen += [int(k) for k in taken]
    return fitted


def explained(fitted: FitResult | None, target: pd.DataFrame) -> float:
    """Return R^2 on the larger runs, -1 at least as in the paper."""
    if fitted is None:
        return -1.0
    loss = target["L"].to_numpy()
    off = loss - fitted.predict(target)
    return float(max(1 - np.sum(off**2) / np.sum((loss - loss.mean()) ** 2), -1.0))


def main() -> None:
    """Print R^2 by task and share of the budget, beside what is published."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shares", default="0.01,0.05,0.1")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    shares = [float(text) for text in options.shares.split(",")]
    print(f"{'task':10s}" + "".join(f"{100 * s:6.0f} %" for s in shares) + "     all   published: 10 %, all")
    for name, task in TASKS.items():
        groups = tables(name, task)
        found = [np.mean([explained(designed(*g, task, share), g[1]) for g in groups]) for share in shares]
        whole = np.mean([
            explained(fit(g[0], law=task.law, objective="lsq-log", bootstrap=0, test=False), g[1]) for g in groups
        ])  # fmt: skip
        print(
            f"{name:10s}" + "".join(f"{r:8.2f}" for r in found) + f"{whole:8.2f}"
            f"{task.published[0]:14.2f}{task.published[1]:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
