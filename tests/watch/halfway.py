"""A store as a sweep leaves it half-way: finished runs that obey a law, one that grows, one that failed."""

import json
import math
from pathlib import Path

from allometry.runs.store import Store

STUDY = "quickstart-1m"


def write(store: Store, run: str, *, n: int, steps: int, at: int | None = None, error: str = "") -> str:
    """A run of `steps` updates of 512 tokens that has come to step `at` (default: the end)."""
    folder = store.directory(run)
    folder.mkdir(exist_ok=True)
    counts = {"embedding": 4096, "position": 512, "blocks": n, "other": 96, "head": 0,
              "flops_blocks": 2 * n, "flops_attention": 1024, "flops_head": 8192}  # fmt: skip
    described = {"format": 1, "id": run, "config": config(n, steps), "counts": counts}
    (folder / "config.json").write_text(json.dumps(described))
    rows = [row(n, step) for step in range(steps // 8, (at or steps) + 1, steps // 8)]
    (folder / "curve.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    if error:
        (folder / "error.txt").write_text(error)
    elif at is None:
        (folder / "result.json").write_text(
            json.dumps({"format": 1, "status": "done", **rows[-1], "seconds": 9.0})
        )
    return run


def config(n: int, steps: int) -> dict[str, object]:
    """A configuration as plans and runs keep it."""
    model = {"family": "transformer", "n_layer": 2, "d_model": round(math.sqrt(n / 24)), "n_vocab": 256}
    train = {
        "batch_tokens": 512,
        "lr": 0.01,
        "schedule": "wsd",
        "decay": 0.2,
        "seed": 0,
        "tokens": 512 * steps,
    }
    return {"model": model, "data": {"corpus": "sotu", "tokenizer": "bytes"}, "train": train}


def row(n: int, step: int) -> dict[str, float]:
    """One evaluation on a law."""
    loss = 1.2 + 8 / n**0.2 + 60 / (512 * step) ** 0.33
    return {"step": step, "tokens": 512 * step, "train_loss": loss, "grad_norm": 1.0, "loss": loss}


def make(path: Path) -> Store:
    """Twelve runs are planned: nine done, one under way, one failed (markup in its name), one to go."""
    made = Store(path, create=True)
    runs = [
        write(made, f"t-{n}-{steps}", n=n, steps=steps)
        for n in (1000, 4000, 16000)
        for steps in (80, 160, 320)
    ]
    planned = [config(n, steps) for n in (1000, 4000, 16000) for steps in (80, 160, 320)]
    runs.append(write(made, "t-growing", n=64000, steps=320, at=160))
    runs.append(
        write(made, "<img src=x onerror=alert(1)>", n=64000, steps=160, at=80, error="<script>no</script>")
    )
    runs.append("t-later")
    planned += [config(64000, 320), config(64000, 160), config(64000, 80)]
    made.enroll(STUDY, runs, question="Does <b>it</b> grow?", command="allometry run quickstart --budget 1m")
    folder = made.path / "studies" / STUDY
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps({"seconds": 60.0, "runs": planned}))
    return made
