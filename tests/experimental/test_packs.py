"""Runs of a pack leave what runs trained alone leave, through stops and neighbours that diverge."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from allometry.core.errors import AllometryError
from allometry.experimental.packs import train_packed
from allometry.train.config import RunConfig
from allometry.train.loop import Progress, train

Make = Callable[..., RunConfig]
Files = Callable[[Path], tuple[bytes, bytes]]


@pytest.fixture(autouse=True)
def always_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allometry.train.loop.PROGRESS_SECONDS", 0.0)


@pytest.fixture
def runs(make_run: Make, tmp_path: Path) -> dict[Path, RunConfig]:
    """Runs with seeds, rates, subsets and horizons of their own."""
    recipes = (
        make_run(engine="fast", tokens=20 * 128),
        make_run(engine="fast", tokens=20 * 128, seed=1, lr=0.003, data={"limit": 3000}),
        make_run(engine="fast", tokens=12 * 128, seed=2, weight_decay=0.0, clip=None),
    )
    return {tmp_path / "pack" / str(number): run for number, run in enumerate(recipes)}


def curve(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "curve.jsonl").read_text().splitlines()]


def test_each_run_is_what_it_is_alone(runs: dict[Path, RunConfig], tmp_path: Path) -> None:
    results = train_packed(runs)
    for directory, config in runs.items():
        alone = train(config, tmp_path / "alone" / directory.name)
        found = results[directory]
        assert found.keys() == alone.keys()
        assert found["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert found["engine"] == "packed"
        assert {p.name for p in directory.rglob("*")} == {
            p.name for p in (tmp_path / "alone" / directory.name).rglob("*")
        }
        for one, other in zip(curve(directory), curve(tmp_path / "alone" / directory.name), strict=True):
            for name in ("step", "lr", "train_loss", "grad_norm", "loss"):
                assert one[name] == pytest.approx(other[name], rel=1e-3), name
    assert train_packed(runs) == results


def test_stopped_and_continued_is_bitwise_the_same(
    runs: dict[Path, RunConfig], run_files: Files, tmp_path: Path
) -> None:
    whole = {tmp_path / "whole" / directory.name: run for directory, run in runs.items()}
    train_packed(whole)

    def stop(directory: Path, progress: Progress) -> None:
        if directory.name == "1" and progress.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_packed(runs, on_progress=stop)
    steps = {at.name for at in tmp_path.glob("pack/*/checkpoints/*")}
    assert steps <= {"step-000000007.safetensors", "step-000000008.safetensors"}
    train_packed(runs)
    for one, other in zip(runs, whole, strict=True):
        assert "continues after step" in (one / "log.txt").read_text()
        assert run_files(one) == run_files(other)


def test_a_run_goes_on_alone_and_back_in_a_pack(runs: dict[Path, RunConfig], tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    (directory, config), *others = runs.items()
    any_engine = config.replace(engine="auto")
    with pytest.raises(KeyboardInterrupt):
        train_packed({directory: any_engine, **dict(others)}, on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        train(any_engine, directory, on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        train_packed({directory: any_engine}, on_progress=stop)
    result = train(any_engine, directory)
    assert result["loss"] == pytest.approx(train(config, tmp_path / "alone")["loss"], rel=1e-4)
    assert result["engine"] == "fast"
    changes = [line.split("goes on with ")[1] for line in log(directory) if "goes on with" in line]
    assert [change.partition(",")[0] for change in changes] == [
        "engine fast after packed",
        "engine packed after fast",
        "engine fast after packed",
    ]


def log(directory: Path) -> list[str]:
    return (directory / "log.txt").read_text().splitlines()


def test_a_step_that_fails_is_no_failure_of_the_runs(
    runs: dict[Path, RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from allometry.experimental.packs import Pack

    with monkeypatch.context() as patch:
        patch.setattr(Pack, "_step", lambda pack: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_packed(runs)
    assert not any((directory / "error.txt").exists() for directory in runs)
    assert all(result["status"] == "done" for result in train_packed(runs).values())


def test_one_that_diverges_leaves_the_others(make_run: Make, run_files: Files, tmp_path: Path) -> None:
    calm = [make_run(engine="fast", tokens=15 * 128, seed=seed) for seed in range(3)]
    wild = make_run(engine="fast", tokens=15 * 128, lr=1e30, clip=None, warmup=0)
    results = train_packed({tmp_path / "a" / str(n): run for n, run in enumerate([calm[0], wild, calm[2]])})
    train_packed({tmp_path / "b" / str(n): run for n, run in enumerate(calm)})
    assert [each["status"] for each in results.values()] == ["done", "diverged", "done"]
    for name in ("0", "2"):
        assert run_files(tmp_path / "a" / name) == run_files(tmp_path / "b" / name)


def test_one_that_fails_leaves_the_others(make_run: Make, tmp_path: Path) -> None:
    runs = {
        tmp_path / "bad": make_run(engine="fast", tokens=4 * 128, data={"limit": 10**9}),
        tmp_path / "good": make_run(engine="fast", tokens=4 * 128),
    }
    with pytest.raises(AllometryError, match="lower the limit"):
        train_packed(runs)
    assert (tmp_path / "good" / "result.json").exists()
    assert "lower the limit" in (tmp_path / "bad" / "error.txt").read_text()
