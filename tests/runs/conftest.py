"""Stores made by hand, as training writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allometry.runs.store import Store

COUNTS = {
    "embedding": 4096,
    "position": 512,
    "blocks": 6144,
    "other": 96,
    "head": 0,
    "flops_blocks": 12288,
    "flops_attention": 1024,
    "flops_head": 8192,
}
Write = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> Write:
    """`write_run(id, status=…, seed=…, loss=…)`: a run directory in the store tmp_path/runs."""

    def write(run: str, status: str = "done", seed: int = 0, steps: int = 4, **result: Any) -> Path:
        directory = Store(tmp_path / "runs", create=True).path / run
        directory.mkdir()
        config = {
            "model": {"family": "transformer", "n_layer": 2, "d_model": 16},
            "data": {"corpus": "sotu", "tokenizer": "bytes"},
            "train": {
                "batch_tokens": 128,
                "lr": 0.01,
                "schedule": "wsd",
                "seed": seed,
                "tokens": steps * 128,
            },
            "engine": "auto",
        }
        description = {"format": 1, "id": run, "config": config, "counts": COUNTS}
        (directory / "config.json").write_text(json.dumps(description))
        rows = [
            {
                "step": k,
                "tokens": 128 * k,
                "lr": 0.01,
                "train_loss": 5.0 / k,
                "grad_norm": 1.0,
                "loss": 5.1 / k,
            }
            for k in range(1, steps + 1)
        ]
        (directory / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if status in ("done", "diverged"):
            ending = {"format": 1, "status": status, "step": steps, "tokens": 128 * steps, "unique": 10_000}
            measured = {
                "loss": 1.275,
                "train_loss": 1.25,
                "seconds": 90.0,
                "engine": "native",
                "counts": COUNTS,
            }
            (directory / "result.json").write_text(json.dumps({**ending, **measured, **result}))
        if status == "failed":
            (directory / "error.txt").write_text("it failed")
        return directory

    return write
