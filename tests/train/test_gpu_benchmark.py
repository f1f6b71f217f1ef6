"""The script that measures a GPU: its miniature runs on a CPU, goes on where it ended, and survives failures."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    """The script as a module; its neighbours are found for as long as it is loaded."""
    sys.path.append(BENCHMARKS)
    import gpu

    yield gpu
    sys.path.remove(BENCHMARKS)


@pytest.fixture
def later() -> float:
    """A time that no test reaches."""
    return math.inf


def miniature(gpu: ModuleType) -> list[Any]:
    """Every measurement but those that start processes, each as small as can be."""
    scale = gpu.scale_of("cpu", 1.0)
    small = replace(scale, shapes=((2, 8),), contexts=(8,), vocabularies=(16,), batch=16, packs=(2,), steps=3)
    items = gpu.items_of("cpu", replace(small, seconds=1e-4, matrix=16))
    return [item for item in items if item.part in ("correctness", "speed", "families")]


def test_the_miniature_measures_and_is_not_measured_twice(
    gpu: ModuleType, tmp_path: Path, later: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "gpu.json"
    items = miniature(gpu)
    assert gpu.measure(items, gpu.Record(out, "cpu"), later, 1e5)
    found = json.loads(out.read_text())["found"]
    assert found.keys() == {item.key for item in items}
    assert {key: each["error"] for key, each in found.items() if "error" in each} == {}
    assert [key for key, each in found.items() if each.get("ok") is False] == []
    assert found["correctness: gradients, lstm, fp32"]["gap"] < 1e-4
    assert found["correctness: same bits, universal"]["resumes"] is True
    assert found["correctness: graph of 4"]["needs"] == "needs CUDA: a CUDA graph"
    pack = found["speed: 2x8 ctx 8 V 16, pack 2"]
    assert pack["tokens per second"] == pytest.approx(2 * 16 / pack["seconds"])
    assert "LSTM" in found["families: lstm 2x8 ctx 8 V 16, pack 2"]["lacks"]
    table = out.with_suffix(".md").read_text()
    assert all(f"| {item.name} |" in table for item in items)
    monkeypatch.setattr(gpu, "attempt", lambda *_: pytest.fail("measured twice"))
    assert gpu.measure(items, gpu.Record(out, "cpu"), later, 1e5)


def test_a_wrong_gradient_and_a_curve_that_goes_apart_are_seen(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = gpu.Case(1, 8, 16, 8, 16)
    backward = gpu.parts.FastEngine._backward

    def wrong(self: Any, *arguments: Any) -> torch.Tensor:
        loss: torch.Tensor = backward(self, *arguments)
        self.gradient.mul_(-1.0)
        return loss

    monkeypatch.setattr(gpu.parts.FastEngine, "_backward", wrong)
    assert gpu.parts.gradients(case, "cpu", "fp32")["ok"] is False
    assert gpu.parts.curves(case, "cpu", "fp32", 30)["ok"] is False
    assert gpu.parts.packs(case, "cpu", "fp32", 2, 30)["ok"] is False


def test_a_failure_is_kept_with_its_traceback_and_tried_once_more(
    gpu: ModuleType, tmp_path: Path, later: float
) -> None:
    done: list[str] = []

    def fails() -> dict[str, Any]:
        done.append("fails")
        raise ValueError("no such kernel")

    def works() -> dict[str, Any]:
        done.append("works")
        return {"ok": True}

    items = [gpu.Item("correctness", "fails", fails), gpu.Item("speed", "works", works)]
    record = gpu.Record(tmp_path / "gpu.json", "cpu")
    assert gpu.measure(items, record, later, 1e5)
    assert gpu.measure(items, record, later, 1e5)
    assert done == ["fails", "works", "fails"]
    found = json.loads(record.path.read_text())["found"]["correctness: fails"]
    assert found["error"] == "ValueError: no such kernel"
    assert "in fails" in found["traceback"]
    assert "no such kernel" in record.path.with_suffix(".md").read_text()


def test_after_a_failure_of_cuda_the_process_is_started_anew(
    gpu: ModuleType, tmp_path: Path, later: float
) -> None:
    """In the same process everything after it would fail too; memory that runs out does no such harm."""

    def broken() -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def too_large() -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    record = gpu.Record(tmp_path / "gpu.json", "cpu")
    items = [gpu.Item("speed", "large", too_large), gpu.Item("speed", "broken", broken)]
    assert gpu.measure(items, record, later, 1e5) is False
    assert "illegal" in record.found["speed: broken"]["error"]
    assert "out of memory" in record.found["speed: large"]["error"]


def test_time_is_divided_and_the_most_valuable_is_done_first(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measurements of one second on a clock that only they move, in 100 seconds."""
    now = 0.0

    def work() -> dict[str, Any]:
        nonlocal now
        now += 1
        return {}

    monkeypatch.setattr(gpu.time, "time", lambda: now)
    for write in ("write_json", "write_text"):  # a hundred of them wait for the disk
        monkeypatch.setattr(gpu, write, lambda *_: None)
    items = [gpu.Item(part, str(number), work) for part in gpu.SHARES for number in range(50)]
    items = [item for item in items if item.part != "memory" or item.name == "0"]
    record = gpu.Record(tmp_path / "gpu.json", "cpu")
    assert gpu.measure(items, record, 100.0, 1e5)
    counts = {part: sum(key.startswith(part) for key in record.found) for part in gpu.SHARES}
    assert sum(counts.values()) == 100
    assert counts["memory"] == 1
    for part in ("correctness", "speed", "quickstart"):
        assert counts[part] == pytest.approx(100 * gpu.SHARES[part], abs=1)
        assert f"{part}: {counts[part] - 1}" in record.found
    assert counts["processes"] + counts["families"] > 12  # which share what memory left over


def test_a_record_of_another_device_is_refused(gpu: ModuleType, tmp_path: Path) -> None:
    gpu.Record(tmp_path / "gpu.json", "cpu").write()
    with pytest.raises(gpu.click.UsageError, match="of device cpu"):
        gpu.Record(tmp_path / "gpu.json", "cuda")
