"""A study on a cluster, on paper: wall time, size of the store, load of driver and store; nothing is trained.

    python benchmarks/paper_cluster.py kaplan --compute 1e21 --gpus 64

The runs are those that the study would plan. A GPU is described by two numbers: what it sustains on large
products (--flops) and the least time that any step takes (--floor). Both are assumptions:
replace them by those of your machine. Everything else follows from the configurations.
"""

from __future__ import annotations

import argparse

from allometry.core.units import format_count, format_duration
from allometry.studies.core import plan as planning
from allometry.studies.core.study import study
from allometry.sweeps import Sweep
from allometry.sweeps.cost import CostModel, Timing, shape_key
from allometry.train.config import DataConfig, RunConfig

_START = 10.0
"""Seconds that a run takes once: model, kernels, data."""

_TEXT_BYTES = 4e4
"""Configuration, curve, log and result of a run, as small studies leave them."""


def timing(run: RunConfig, flops: float, floor: float) -> Timing:
    """Return what a step of a run takes on such a GPU, evaluation being a third of training per token."""
    work = float(run.model.counts().flops_per_token("attention"))
    step = max(floor, work * run.train.batch_tokens / flops)
    pace = work * run.train.batch_tokens / step
    return Timing(
        family=getattr(run.model, "family", ""),
        engine=run.engine,
        flops_per_token=work,
        batch_tokens=run.train.batch_tokens,
        step=step,
        evaluation=work / 3 / pace,
        start=_START,
        memory=24.0 * run.model.counts().N_total,
    )


def describe(sweep: Sweep, stages: list[Sweep], cost: CostModel, gpus: int) -> None:
    """Print what it takes."""
    seconds = sum(cost.total(stage.runs, workers=gpus).seconds for stage in stages)
    work = sum(cost.total(stage.runs, workers=gpus).work for stage in stages)
    alone = sum(cost.seconds(run) for run in sweep)
    longest = max(sweep, key=cost.seconds)
    largest = max(sweep, key=lambda run: run.model.counts().N)
    store = sum(4.0 * run.model.counts().N_total + _TEXT_BYTES for run in sweep)
    floored = sum(cost.seconds(run) for run in sweep if cost.seconds(run) / run.train.steps < 0.003)
    print(f"{len(sweep)} runs, N to {format_count(largest.model.counts().N)}")
    print(f"on {gpus} GPUs: {format_duration(seconds)}; of their time {work / seconds / gpus:.0%} is used")
    print(f"GPU hours: {work / 3600:,.0f}; without shared trunks {alone / 3600:,.0f}")
    print(f"longest run: {longest.id}, {format_duration(cost.seconds(longest))}")
    print(f"share of GPU time in steps under 3 ms: {floored / alone:.0%}")
    print(f"store: {store / 1e9:,.0f} GB; a run ends every {format_duration(seconds / len(sweep))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("--compute", type=float, default=1e21)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--flops", type=float, default=2.5e14)
    parser.add_argument("--floor", type=float, default=2e-3)
    options = parser.parse_args()
    plan = planning.of_compute(study(options.study), options.compute, DataConfig())
    shapes = {shape_key(run): timing(run, options.flops, options.floor) for run in plan.sweep}
    describe(plan.sweep, plan.stages(), CostModel(shapes), options.gpus)


if __name__ == "__main__":
    main()
