"""A store of ten thousand tiny runs: how long listing takes, cold and warm, and an update of the live page.

Run: nice python benchmarks/big_store.py [--runs 10000] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from allometry.runs.store import Store

SIZES = 25
POINTS = 20
STUDY = "big"


def make(folder: Path, count: int) -> Store:
    """Make a grid of sizes and horizons that obeys a law with noise: each run with a curve; a hundred
    unfinished, five failed.
    """
    store, rng = Store(folder, create=True), np.random.default_rng(0)
    ids = []
    for number in range(count):
        size, tokens = 64 * 1.3 ** (number % SIZES), 1e5 * 1.02 ** (number // SIZES % 250)
        run = f"transformer-{number % SIZES}x{number // SIZES}-sotu-{number}-s0-{number:08x}"
        ids.append(run)
        unfinished, failed = number % 100 == 7, number % 2000 == 8
        write(store.path / run, run, 96 * size, tokens, number, rng.normal(0, 0.01), unfinished, failed)
    store.enroll(STUDY, ids, question="How large may a store be?", command="allometry run big")
    return store


def write(
    folder: Path, run: str, n: float, d: float, seed: int, noise: float, unfinished: bool, failed: bool
) -> None:
    """Write one run directory, as training leaves it."""
    folder.mkdir()
    counts = {"embedding": 4096, "position": 512, "blocks": round(n), "other": 96, "head": 0,
              "flops_blocks": 2 * round(n), "flops_attention": 1024, "flops_head": 8192}  # fmt: skip
    config = {
        "model": {"family": "transformer", "n_layer": 2, "d_model": round(math.sqrt(n / 24)), "n_vocab": 256},
        "data": {"corpus": "sotu", "tokenizer": "bytes"},
        "train": {"batch_tokens": 128, "lr": 0.01, "schedule": "cosine", "seed": seed, "tokens": round(d)},
        "engine": "auto",
    }
    (folder / "config.json").write_text(
        json.dumps({"format": 1, "id": run, "config": config, "counts": counts}, indent=1)
    )
    (folder / "env.json").write_text(json.dumps({"python": sys.version}))
    rows = [curve_row(n, d * (k + 1) / POINTS, noise) for k in range(POINTS // 2 if unfinished else POINTS)]
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if failed:
        (folder / "error.txt").write_text("out of memory: 2.1 GB were needed\n")
    elif not unfinished:
        result = {"format": 1, "status": "done", "unique": 10**7, "seconds": d / 1e4, "engine": "native"}
        (folder / "result.json").write_text(json.dumps({**rows[-1], **result}))


def curve_row(n: float, tokens: float, noise: float) -> dict[str, float]:
    """Return what is recorded at one evaluation."""
    loss = (1.2 + 8 / n**0.2 + 60 / tokens**0.33) * math.exp(noise)
    return {"step": round(tokens / 128), "tokens": round(tokens), "lr": 0.01, "train_loss": loss,
            "grad_norm": 1.0, "loss": loss}  # fmt: skip


def seconds(what: str, act: Callable[[], object]) -> None:
    """Time one call and print it, with the memory that the process has needed so far."""
    began, worked = time.perf_counter(), processor()
    act()
    taken, work = time.perf_counter() - began, processor() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<50} {taken:7.2f} s  ({work:5.2f} s of a core)  peak {peak:5.0f} MB", flush=True)


def processor() -> float:
    """Return the seconds of processor time so far, of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def grow(store: Store, number: int) -> None:
    """Add another point to one unfinished run."""
    run = store.studies()[STUDY].runs[100 * number + 7]
    with (store.path / run / "curve.jsonl").open("a") as file:
        file.write(json.dumps(curve_row(1e5, 9e9 + number, 0.0)) + "\n")


def measure(store: Store) -> None:
    """Time the table, the command, and the page."""
    (store.path / ".index.json").unlink(missing_ok=True)
    seconds("Store.frame(), no index yet", store.frame)
    seconds("Store.frame(), nothing changed", store.frame)
    grow(store, 0)
    seconds("Store.frame(), one run changed", store.frame)
    command = [sys.executable, "-m", "allometry", "runs", "list", "--store", str(store.path)]
    seconds("allometry runs list (the whole process)", lambda: subprocess.run(command, capture_output=True))
    few = [*command, "--limit", "20"]
    seconds("allometry runs list --limit 20", lambda: subprocess.run(few, capture_output=True))
    watch(store)


def watch(store: Store) -> None:
    """Time the live page: its first update, one where nothing changed, and one where a run has grown."""
    from allometry.watch.page import Page

    page = Page(store)
    seconds("watch: first page (tables, curves)", lambda: page.update(STUDY))
    seconds("watch: fits (in the background)", page.settle)
    seconds("watch: update, nothing changed", lambda: page.update(STUDY))
    grow(store, 1)
    seconds("watch: update, one run has grown", lambda: page.update(STUDY))
    parts = page.update(STUDY)
    print("size of the parts:", {name: f"{len(text) / 1024:.0f} kB" for name, text in parts.items()})


def main() -> None:
    """Make the store in a temporary folder, or use the one that --keep names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="Folder to keep the store in, for a look at the page.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary) / "runs"
        began = time.perf_counter()
        store = Store(folder) if folder.exists() else make(folder, options.runs)
        print(f"{options.runs} runs in {folder}: {time.perf_counter() - began:.0f} s to make")
        measure(store)


if __name__ == "__main__":
    main()
