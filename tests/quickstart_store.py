"""A store of a study whose runs follow a planted law, and a table: what reading commands read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from allometry.runs.store import Store
from allometry.studies.core import plan as planning
from allometry.studies.core.results import folder_of
from allometry.studies.core.study import study
from allometry.train.config import DataConfig, RunConfig, evaluation_steps

KEY = "quickstart-small"
COMMAND = "allometry run quickstart --compute 0"


def planted(n: float, tokens: np.ndarray | float) -> np.ndarray:
    """1 + (3e3/N)^0.4 + (1e5/D)^0.5: what a run of N parameters has lost after so many tokens."""
    return 1.0 + (3e3 / n) ** 0.4 + (1e5 / np.asarray(tokens, float)) ** 0.5


def write_planted(store: Store, config: RunConfig, noise: float) -> None:
    """Write a finished run as training would have left it, its losses by formula."""
    counts = config.model.counts().to_dict()
    folder = store.directory(config.id)
    folder.mkdir()
    described = {"format": 1, "id": config.id, "config": config.model_dump(mode="json"), "counts": counts}
    (folder / "config.json").write_text(json.dumps(described))
    steps = np.array(evaluation_steps(config))
    tokens = steps * config.train.batch_tokens
    losses = planted(counts["blocks"], tokens) * (1 + noise)
    lines = [
        json.dumps({"step": int(s), "tokens": int(t), "loss": float(loss), "train_loss": float(loss)})
        for s, t, loss in zip(steps, tokens, losses, strict=True)
    ]
    (folder / "curve.jsonl").write_text("\n".join(lines) + "\n")
    end = {"step": int(steps[-1]), "tokens": int(tokens[-1]), "loss": float(losses[-1]), "unique": 1e9}
    seconds = 6 * counts["blocks"] * float(tokens[-1]) / 1e9
    done = {"format": 1, "status": "done", "seconds": seconds, "engine": "native"}
    (folder / "result.json").write_text(
        json.dumps(done | end | {"finished": "2026-01-31T23:59:59Z", "train_loss": float(losses[-1])})
    )


@pytest.fixture(scope="session")
def quickstart_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the smallest quickstart, planned and done. To be read only."""
    store = Store(tmp_path_factory.mktemp("planted") / "runs", create=True)
    asked = study("quickstart")
    plan = planning.of_compute(asked, 0.0, DataConfig())
    plan = planning.keep(plan, store, folder_of(store, KEY))
    store.enroll(KEY, plan.sweep.ids, question=asked.question, command=COMMAND)
    rng = np.random.default_rng(0)
    for config in plan.sweep:
        write_planted(store, config, 0.003 * float(rng.standard_normal()))
    return store.path


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 36 runs on a grid of N and D that follow a planted law."""
    rng = np.random.default_rng(1)
    rows = [
        f"{n:.6g},{d:.6g},{float(planted(n / 1e3, d / 1e4)) * (1 + 0.002 * rng.standard_normal()):.6f}"
        for n in np.logspace(6, 9, 6)
        for d in np.logspace(8, 11, 6)
    ]
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    path.write_text("N,D,loss\n" + "\n".join(rows) + "\n")
    return path
