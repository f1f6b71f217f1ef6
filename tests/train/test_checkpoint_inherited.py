"""A run that starts from another: its weights, a fresh optimiser, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from allometry.core.errors import AllometryError
from allometry.train.checkpoint import final_parameters, inherited
from allometry.train.config import RunConfig, learning_rate
from allometry.train.engines.reference import ReferenceEngine
from allometry.train.inputs import load_inputs
from allometry.train.loop import train

Make = Callable[..., RunConfig]
Files = Callable[[Path], tuple[bytes, bytes]]


@pytest.fixture
def parent(make_run: Make, tmp_path: Path) -> RunConfig:
    config = make_run(tokens=20 * 128)
    train(config, tmp_path / config.id)
    return config


def child(make_run: Make, parent: RunConfig, **train: object) -> RunConfig:
    return make_run(init_from=parent.id, seed=5, **{"tokens": 30 * 128, **train})


def test_its_first_step_is_from_the_parents_weights(
    make_run: Make, parent: RunConfig, tmp_path: Path
) -> None:
    config = child(make_run, parent, tokens=128)
    train(config, tmp_path / config.id)
    engine = ReferenceEngine(config)
    weights = {f"params/{k}": v for k, v in final_parameters(tmp_path / parent.id).items()}
    engine.load_state(engine.state() | weights)
    engine.step(load_inputs(config).order.batch(1), lr=learning_rate(config.train, 1), step=1)
    found = final_parameters(tmp_path / config.id)
    assert all(np.array_equal(engine.state()[f"params/{name}"], found[name]) for name in found)
    assert parent.id in (tmp_path / config.id / "log.txt").read_text()


def test_it_is_part_of_the_identity(make_run: Make, parent: RunConfig) -> None:
    ids = {make_run(seed=5).id, child(make_run, parent).id, make_run(seed=5, init_from="other").id}
    assert len(ids) == 3
    assert make_run(seed=5).trunk != child(make_run, parent).trunk


def test_stopped_and_continued_is_bitwise_the_same(
    make_run: Make, parent: RunConfig, run_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allometry.train.loop.PROGRESS_SECONDS", 0.0)

    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    config = child(make_run, parent)
    train(config, tmp_path / "whole")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "parts", on_progress=stop)
    train(config, tmp_path / "parts")
    assert run_files(tmp_path / "parts") == run_files(tmp_path / "whole")


def test_what_cannot_be_started_from_says_why(make_run: Make, parent: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(AllometryError, match="which is not in"):
        train(child(make_run, make_run()), tmp_path / "absent")
    with pytest.raises(AllometryError, match="init_from"):
        make_run(init_from="../elsewhere")
    wide = child(make_run, parent)
    wide = wide.replace(model=wide.model.replace(d_model=32, n_head=1, d_ff=128))
    with pytest.raises(AllometryError, match="d_ff 64 instead of 128, d_model 16 instead of 32"):
        inherited(wide, tmp_path)
    softer = wide.replace(model=parent.model.replace(dropout=0.1))
    assert inherited(softer, tmp_path)
    (tmp_path / parent.id / "result.json").unlink()
    with pytest.raises(AllometryError, match="it is not finished"):
        inherited(child(make_run, parent), tmp_path)


def test_a_parent_that_diverged_has_no_weights_to_give(make_run: Make, tmp_path: Path) -> None:
    wild = make_run(lr=50.0, clip=None, warmup=0)
    train(wild, tmp_path / wild.id)
    config = child(make_run, wild)
    with pytest.raises(AllometryError, match="it diverged"):
        train(config, tmp_path / config.id)
    assert "it diverged" in (tmp_path / config.id / "error.txt").read_text()
