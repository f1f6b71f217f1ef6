"""The script that measures a GPU: its miniature runs on a CPU, goes on where it ended, and survives failures."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
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
    """Every measurement but those that start processes or a compiler, each as small as can be."""
    scale = gpu.scale_of("cpu", 1.0)
    small = replace(scale, shapes=((2, 8),), contexts=(8,), vocabularies=(16,), batch=16, packs=(2,), steps=3)
    items = gpu.items_of("cpu", replace(small, seconds=1e-4, matrix=16))
    quick = [item for item in items if item.part in ("correctness", "speed", "families")]
    return [item for item in quick if not item.name.endswith(("compiled", "strict"))]


def test_the_miniature_measures_and_is_not_measured_twice(
    gpu: ModuleType, tmp_path: Path, later: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "gpu.json"
    items = miniature(gpu)
    assert gpu.measure(items, gpu.Record(out, "cpu"), later)
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
    assert "nothing of a GPU" in table
    monkeypatch.setattr(gpu, "attempt", lambda *_: pytest.fail("measured twice"))
    assert gpu.measure(items, gpu.Record(out, "cpu"), later)


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
    assert gpu.measure(items, record, later)
    assert gpu.measure(items, record, later)
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
    assert gpu.measure(items, record, later) is False
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
    assert gpu.measure(items, record, 100.0)
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


class Ended:
    """Stands in for a child process that has ended: `ends` are what each of them does, and its exit status."""

    def __init__(self, record: Callable[[], Any], ends: list[tuple[str, int, str]]) -> None:
        self.record, self.ends = record, ends

    def run(self, command: list[str], **how: object) -> SimpleNamespace:
        running, status, said = self.ends.pop(0)
        self.record().write(running=running or None)
        return SimpleNamespace(returncode=status, stderr=said)


def test_a_process_that_crashes_or_hangs_is_replaced_and_what_it_did_is_recorded(
    gpu: ModuleType, tmp_path: Path, later: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = gpu.Record(tmp_path / "gpu.json", "cpu")
    ends = [
        ("speed: crashes", -11, "Segmentation fault"),
        ("speed: hangs", 1, "Timeout (0:01:40)!\nin gpu_parts.py"),
        ("", gpu.AGAIN, ""),
        ("", 0, ""),
    ]
    monkeypatch.setattr(gpu.subprocess, "run", Ended(lambda: gpu.Record(record.path, "cpu"), ends).run)
    gpu.watch(record.path, "cpu", 1.0, later)
    assert ends == []
    found = gpu.Record(record.path, "cpu").found
    assert found["speed: crashes"]["error"] == "the process ended with status -11"
    assert found["speed: hangs"]["error"] == "stopped: it took too long"
    assert "in gpu_parts.py" in record.path.with_suffix(".md").read_text()


def test_no_process_is_started_when_the_time_is_over(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = gpu.Record(tmp_path / "gpu.json", "cpu")
    ends = [("speed: crashes", -9, ""), ("", 0, "")]
    monkeypatch.setattr(gpu.subprocess, "run", Ended(lambda: gpu.Record(record.path, "cpu"), ends).run)
    gpu.watch(record.path, "cpu", 1.0, -math.inf)
    assert len(ends) == 1


@pytest.mark.slow
def test_a_measurement_that_hangs_is_stopped_with_the_places_of_its_threads(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    script = f"""
import sys, threading
sys.path.insert(0, {BENCHMARKS!r})
import gpu
from pathlib import Path
def hangs():
    threading.Event().wait()
gpu.attempt(gpu.Item("speed", "hangs", hangs, longest=0.2), gpu.Record(Path({str(out)!r}), "cpu"), float("inf"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Timeout (" in done.stderr
    assert "in hangs" in done.stderr
    assert json.loads(out.read_text())["running"] == "speed: hangs"


@pytest.mark.slow
def test_strictly_deterministic_steps_repeat_and_the_switch_is_put_back(gpu: ModuleType) -> None:
    """What asks PyTorch for it loads its compiler."""
    found = gpu.parts.resumed(gpu.Case(1, 8, 16, 8, 16), "cpu", 3, True, 0.0)
    assert found["ok"] is True
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_nanogpt_is_compiled_in_one_piece(gpu: ModuleType) -> None:
    """By a stand-in for the compiler that GPUs have; it takes seconds to load."""
    found = gpu.parts.pace(gpu.Case(2, 16, 32, 16, 64), "nanoGPT compiled", "cpu", 1e-4)
    assert found["tokens per second"] > 0


@pytest.mark.slow
def test_the_parts_that_start_processes(gpu: ModuleType, tmp_path: Path, later: float) -> None:
    """Whole sweeps, memory and several processes, as on a GPU but for the packs of which only it has graphs."""
    scale = replace(gpu.scale_of("cpu", 1.0), shapes=((2, 16),), contexts=(16,), steps=2, seeds=2)
    items = [item for item in gpu.items_of("cpu", scale) if item.part in ("sweeps", "memory", "processes")]
    record = gpu.Record(tmp_path / "gpu.json", "cpu")
    assert gpu.measure(items, record, later)
    assert {key: each.get("traceback") for key, each in record.found.items() if "error" in each} == {}
    packs = record.found["sweeps: 2x16 ctx 16 V 256, packs of 2"]
    assert (packs["packs of up to"], packs["ok"]) == (2, True)
    assert record.found["processes: 2x16 ctx 16 V 64, 2"]["same bits"] is True


def test_a_sweep_whose_losses_change_in_packs_is_seen(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int | None, int]] = []
    taken = {(1, 1): 8.0, (4, 1): 2.0, (None, 2): 4.0}

    def trained(sweep: Any, device: str, pack: int | None, per_gpu: int) -> Any:
        asked.append((pack, per_gpu))
        losses = {run.id: 5.0 + 0.1 * (pack is None) for run in sweep}
        return gpu.parts.Trained(1.0, taken[pack, per_gpu], 1.0, [pack or 8], losses)

    monkeypatch.setattr(gpu.parts, "train_sweep", trained)
    case = gpu.Case(1, 8, 256, 8, 16)
    good, bad = (gpu.parts.sweeps(case, "cpu", 2, 3, *how) for how in ((4, 1), (None, 2)))
    assert asked == [(1, 1), (4, 1), (None, 2)]  # one by one once
    assert (good["ok"], good["times"], good["sweep"]) == (True, 4.0, 2 * 3 * 16 / 2.0)
    assert (bad["ok"], bad["gap"]) == (False, pytest.approx(0.1))
    gpu.parts._sweep.cache_clear()


def test_what_does_not_fit_into_the_time_is_not_begun_and_counted(gpu: ModuleType, tmp_path: Path) -> None:
    items = [
        gpu.Item("quickstart", "long", lambda: pytest.fail("begun"), least=1e6),
        gpu.Item("speed", "short", lambda: {"ok": True}),
    ]
    record = gpu.Record(tmp_path / "gpu.json", "cpu")
    record.count_open(items)
    assert gpu.measure(items, record, gpu.time.time() + 1e5)
    assert record.found.keys() == {"speed: short"}
    assert record.value["open"] == {"quickstart": 1, "speed": 0}
    assert "Not measured yet: 1 of quickstart." in record.path.with_suffix(".md").read_text()


def fast_and(
    contender: str, times: float, shape: str = "2x32", **flops: float
) -> dict[str, dict[str, float]]:
    """A shape at which engine fast trains a thousand tokens per second, and a contender so many times that."""
    case = f"speed: {shape} ctx 128 V 256"
    return {
        f"{case}, fast": {"tokens per second": 1000.0, "flops": 1.0},
        f"{case}, {contender}": {"tokens per second": 1000 * times, "flops": flops.get("flops", 1.0)},
    }


@pytest.mark.parametrize(
    ("found", "number", "reached"),
    [
        ({}, 0, None),
        ({"speed: a": {"ok": True}, "speed: b": {"seconds": 1.0}}, 0, True),
        ({"speed: a": {"ok": True}, "speed: b": {"error": "no"}}, 0, False),
        (
            {"speed: peak": {"flops": 8e12, "stated": 10e12}, **fast_and("pack 8", 2, "4x64", flops=2.4e12)},
            1,
            False,
        ),
        (
            {"speed: peak": {"flops": 8e12, "stated": None}, **fast_and("pack 8", 2, "4x64", flops=2.4e12)},
            1,
            True,
        ),
        ({"speed: peak": {"flops": 8e12}, **fast_and("pack 8", 2, "12x768", flops=7e12)}, 1, None),
        (fast_and("pack 64", 21), 2, True),
        (fast_and("pack 64", 19), 2, False),
        (fast_and("pack 64", 21, "4x64"), 2, None),
        (fast_and("nanoGPT compiled", 0.5) | fast_and("nanoGPT compiled", 1.2, "12x768"), 3, False),
        (fast_and("nanoGPT compiled", 0.5), 3, True),
        ({"quickstart: cuda": {"compute": 4e13}, "quickstart: cpu": {"compute": 1e12}}, 4, True),
        ({"quickstart: cuda": {"compute": 4e13}, "quickstart: cpu": {"error": "no"}}, 4, None),
    ],
)
def test_what_was_hoped_for_is_set_beside_what_was_found(
    gpu: ModuleType, found: dict[str, Any], number: int, reached: bool | None
) -> None:
    assert list(gpu.gpu_table.aims(found))[number].reached is reached


def test_the_peak_is_that_of_the_named_device(gpu: ModuleType) -> None:
    stated = gpu.parts.of_data_sheet
    assert stated("NVIDIA H200") == stated("NVIDIA H100 80GB HBM3") == 989e12
    assert stated("NVIDIA H100 PCIe") == 756e12
    assert stated("NVIDIA A100-SXM4-80GB") == 312e12
    assert stated("Tesla T4") is None


def test_the_prepared_study_reads_a_mixture_and_is_asked_for_on_the_device(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    science, folder = gpu.gpu_science, tmp_path / "science"
    assert {"sotu", "stdlib"} <= set(science.here())
    mixture = science.mixture
    monkeypatch.setattr(science, "mixture", lambda names, path: mixture(["sotu", "stdlib"], path, most=20))
    asked: list[list[str]] = []

    def run(command: list[str], check: bool) -> SimpleNamespace:
        asked.append(command[3:])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(science.subprocess, "run", run)
    assert science.conduct("cuda", ["--budget", "900s"], folder) == 0
    texts = [json.loads(line) for line in (folder / "mixture.jsonl").read_text().splitlines()]
    order = [each["corpus"] for each in texts]
    assert (order.count("sotu"), order.count("stdlib")) == (20, 20)
    assert order != sorted(order)
    assert [command[:2] for command in asked] == [["run", "long_context"], ["report", "long_context"]]
    assert {"cuda", "900s", "bpe:4096", f"files:{folder / 'mixture.jsonl'}"} <= set(asked[0])
    before = (folder / "mixture.jsonl").stat().st_mtime_ns
    assert science.conduct("cuda", ["--budget", "900s"], folder) == 0
    assert (folder / "mixture.jsonl").stat().st_mtime_ns == before
