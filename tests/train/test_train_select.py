"""Which engine runs: by name, by itself, and what it says when it cannot."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from allometry.core.errors import AllometryError
from allometry.train.config import RunConfig
from allometry.train.engines import select
from allometry.train.engines.fast import FastEngine
from allometry.train.engines.native import NativeBf16Engine, NativeEngine
from allometry.train.loop import train

Make = Callable[..., RunConfig]


def test_an_unknown_engine_names_the_known_ones(make_run: Make) -> None:
    with pytest.raises(AllometryError, match="did you mean 'native'"):
        select.engine("natve", make_run())


def test_an_engine_that_cannot_run_says_why(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        NativeEngine, "unsupported_reason", lambda config: "there is no compiler: install g++"
    )
    with pytest.raises(AllometryError, match="no compiler: install g"):
        select.engine("native", make_run())
    assert isinstance(select.engine("auto", make_run()), FastEngine)


def test_without_a_compiler_one_line_says_what_trains(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    train(make_run("auto"), tmp_path / "run")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    (said,) = [line for line in lines if "engine fast trains" in line]
    assert "no C++ compiler (no-such-compiler)" in said
    assert select.why_not_native(make_run(), "cuda") is None  # nobody expects it there


@pytest.mark.parametrize(("native", "fast", "expected"), [(1.0, 1.05, "native"), (1.0, 1.5, "fast")])
def test_auto_takes_the_quicker_and_remembers(
    make_run: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, native: float, fast: float, expected: str
) -> None:
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path))
    monkeypatch.setattr(NativeEngine, "unsupported_reason", lambda config: None)
    paces = {"native": native, "fast": fast}
    asked: list[str] = []

    def pace(candidate: type, config: RunConfig, threads: int) -> float:
        asked.append(candidate.name)
        return paces[candidate.name]

    monkeypatch.setattr(select, "_pace", pace)
    assert select.auto(make_run()).name == expected
    assert select.auto(make_run(seed=3)).name == expected
    assert asked == ["native", "fast"]
    (record,) = (tmp_path / "engines").glob("pace-*.json")
    assert json.loads(record.read_text()) == paces
    record.write_text('{"native": 1')  # damaged: timed again
    assert select.auto(make_run()).name == expected


def test_auto_never_takes_another_precision_unasked(
    make_run: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A study's shapes would else be trained in fp32 and bf16 by whichever is quicker for each."""
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path))
    for kind in (NativeEngine, NativeBf16Engine):
        monkeypatch.setattr(kind, "unsupported_reason", lambda config: None)
    paces = {"native": 1.0, "native-bf16": 4.0, "fast": 2.0}
    monkeypatch.setattr(select, "_pace", lambda candidate, config, threads: paces[candidate.name])
    assert select.auto(make_run()).name == "fast"
    (record,) = (tmp_path / "engines").glob("pace-*.json")
    # of another choice of engines: timed again
    record.write_text('{"native": 1.0, "native-bf16": 9.0, "fast": 0.5}')
    assert select.auto(make_run()).name == "fast"


def test_a_timing_is_a_pace(make_run: Make) -> None:
    assert select._pace(FastEngine, make_run(), 1) > 100


def test_a_run_goes_on_with_the_engine_it_began_with(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("allometry.train.loop.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(select, "auto", lambda config, **_: FastEngine)
    with pytest.raises(KeyboardInterrupt):
        train(make_run("auto", tokens=512), tmp_path, on_progress=stop)
    monkeypatch.setattr(select, "auto", lambda config, **_: pytest.fail("asked again"))
    assert train(make_run("auto", tokens=512), tmp_path)["engine"] == "fast"
