"""Cores or GPUs: which are taken, and what is said of it."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from allometry.core.errors import AllometryError
from allometry.sweeps import calibrate as calibration
from allometry.sweeps.calibrate import choose_device


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that a sweep is predicted to take, by device; a pool is its device's name."""
    seconds: dict[str, float] = {}

    def calibrate(runs, *, pool, on_shape):
        if pool not in seconds:
            raise AllometryError("cannot time a run: CUDA error: no kernel image is available")
        return SimpleNamespace(total=lambda runs: SimpleNamespace(seconds=seconds[pool]))

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    return seconds


@pytest.mark.parametrize(("cuda", "expected"), [(600.0, "cuda"), (3600.0, "cpu")])
def test_what_ends_sooner_is_taken(predicted: dict[str, float], cuda: float, expected: str):
    predicted |= {"cpu": 1800.0, "cuda": cuda}
    device, why = choose_device([], nullcontext)
    assert device == expected
    assert "30 min" in why
    assert ("--device cpu" if expected == "cuda" else "--device cuda") in why


def test_gpus_that_fail_leave_the_cores(predicted: dict[str, float]):
    predicted["cpu"] = 1800.0
    device, why = choose_device([], nullcontext)
    assert device == "cpu"
    assert "no kernel image" in why


def test_cores_that_fail_are_an_error(predicted: dict[str, float]):
    with pytest.raises(AllometryError, match="cannot time"):
        choose_device([], nullcontext)
