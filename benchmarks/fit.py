"""Speed and accuracy of fits, against the usual way of making them, in one run on one core.

The data are the 240 points of Besiroglu et al. 2024 (--data PATH: columns "Model Size", "Training FLOP",
"loss"); without them, 240 simulated points of the same law, sizes and noise. The baseline is the grid of
4,500 starts of Hoffmann et al. 2022 through scipy's L-BFGS-B with finite differences, of which a fraction
is run and scaled up.

Run: OMP_NUM_THREADS=1 python benchmarks/fit.py [--fraction 0.02] [--resamples 4000]
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from allometry.laws.fit import fit

PUBLISHED = {"A": 124.52, "B": 1293.28, "E": 0.0257, "alpha": 0.0154, "beta": 0.0206}
COLUMNS = {"N": "Model Size", "C": "Training FLOP", "D": "C/(6*N)"}
DEFAULT = Path(__file__).parents[1].parent / "shared/data/chinchilla/svg_extracted_data.csv"


def points(path: Path) -> pd.DataFrame:
    """Return the 240 points, or simulated ones where the file is missing."""
    if path.is_file():
        return pd.read_csv(path).sort_values("loss").iloc[:240]
    print(f"no file {path}: simulated points instead")
    rng = np.random.default_rng(0)
    n, d = (np.exp(rng.uniform(np.log(a), np.log(b), 240)) for a, b in ((5.7e7, 1.6e10), (8e8, 3.2e11)))
    loss = (1.8172 + 482.01 / n**0.3478 + 2085.43 / d**0.3658) * np.exp(0.006 * rng.standard_normal(240))
    return pd.DataFrame({"Model Size": n, "Training FLOP": 6 * n * d, "loss": loss})


def objective(x: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_loss: np.ndarray) -> float:
    """Return Hoffmann's objective as scripts write it: log-sum-exp, Huber of delta 1e-3, summed."""
    a, b, e, alpha, beta = x
    terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    top = terms.max(axis=0)
    residual = np.abs(np.log(np.exp(terms - top).sum(axis=0)) + top - log_loss)
    return float(np.where(residual < 1e-3, 0.5 * residual**2, 1e-3 * (residual - 5e-4)).sum())


def baseline(frame: pd.DataFrame, fraction: float) -> tuple[float, float, float]:
    """Return the seconds for the whole grid, the lowest objective found, and the share of the starts that
    reached it.
    """
    from scipy.optimize import minimize

    grid = list(
        itertools.product(
            np.arange(0, 30, 5.0),
            np.arange(0, 30, 5.0),
            np.arange(-1, 1.5, 0.5),
            np.arange(0, 2.5, 0.5),
            np.arange(0, 2.5, 0.5),
        )
    )
    chosen = np.random.default_rng(0).choice(len(grid), max(1, round(fraction * len(grid))), replace=False)
    n, c = frame["Model Size"].to_numpy(), frame["Training FLOP"].to_numpy()
    data = np.log(n), np.log(c / (6 * n)), np.log(frame["loss"].to_numpy())
    began = time.process_time()
    ends = [minimize(objective, grid[i], args=data, method="L-BFGS-B").fun for i in chosen]
    seconds = (time.process_time() - began) * len(grid) / len(chosen)
    return seconds, min(ends), float(np.mean(np.array(ends) <= 1.0001 * min(ends)))


def timed(what: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Return the CPU seconds of the quickest of some repeats, and the result."""
    best, result = np.inf, None
    for _ in range(repeats):
        began = time.process_time()
        result = what()
        best = min(best, time.process_time() - began)
    return best, result


def command_seconds(path: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of a fresh process that imports allometry, fits the points and prints the
    report.
    """
    import resource

    code = (
        "import sys, pandas as pd, allometry\n"
        "d = pd.read_csv(sys.argv[1]).sort_values('loss').iloc[:240]\n"
        f"print(allometry.fit(d, law='chinchilla', columns={COLUMNS!r}).report())\n"
        "assert 'torch' not in sys.modules\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument(
        "--fraction", type=float, default=0.02, help="part of the baseline's 4,500 starts to run"
    )
    parser.add_argument("--resamples", type=int, default=4000)
    options = parser.parse_args()
    frame = points(options.data)

    def run(count: int) -> Any:
        return fit(frame, law="chinchilla", columns=COLUMNS, bootstrap=count)

    first, result = timed(lambda: run(0), repeats=1)
    seconds, result = timed(lambda: run(0))
    print(f"the optimum from default starts   {seconds:.3f} s CPU ({first:.2f} s the first time)")
    print(f"  objective {result.objective_value:.14g}, {result.agreeing} of {result.starts} starts agree")
    print("  " + ", ".join(f"{k} {v:.6g}" for k, v in result.parameters.items()))
    grid, lowest, share = baseline(frame, options.fraction)
    print(f"4,500-start L-BFGS-B grid         {grid:.1f} s CPU (scaled from {options.fraction:.0%} of them)")
    print(
        f"  objective {lowest:.14g}, reached by {share:.0%} of the starts;  {grid / seconds:.0f} times slower"
    )
    boot, result = timed(lambda: run(options.resamples), repeats=1)
    print(f"{options.resamples} bootstrap resamples          {boot:.2f} s CPU")
    for name, published in PUBLISHED.items():
        print(f"  s.e. of {name:6s} {result.samples[name].std():10.4g}   published {published:g}")
    if options.data.is_file():
        wall, cpu = command_seconds(options.data)
        print(f"import, fit, 400 resamples, report as a command: {wall:.2f} s wall, {cpu:.2f} s CPU ")


if __name__ == "__main__":
    main()
