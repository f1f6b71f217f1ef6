"""Coverage of the intervals: fits to tables simulated from known laws, counted. Prints percent against 80
and 95.

Run: nice python benchmarks/coverage.py [--tables 500] [--only NAME]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from allometry.laws.coverage import Design, coverage

CHINCHILLA = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


def grid(sizes: int, horizons: int, repeats: int = 1) -> dict[str, np.ndarray]:
    """Return N from 10M to 1B and D from 200M to 20B tokens, crossed."""
    n, d = np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(2e8, 2e10, horizons))
    return {"N": np.tile(n.ravel(), repeats), "D": np.tile(d.ravel(), repeats)}


BEYOND = {"N": 1e10, "D": 2e11}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=500)
    parser.add_argument("--bootstrap", type=int, default=400)
    parser.add_argument("--only", default="")
    parser.add_argument("--resample", default="auto", choices=["auto", "runs", "noise"])
    options = parser.parse_args()
    for name, design in DESIGNS.items():
        if options.only in name:
            began = time.process_time()
            frame = coverage(
                design, tables=options.tables, bootstrap=options.bootstrap, resample=options.resample
            )
            print(f"\n{name}  ({design.objective}, {time.process_time() - began:.0f} s)")
            print(frame.round(1).to_string(), flush=True)


if __name__ == "__main__":
    main()
