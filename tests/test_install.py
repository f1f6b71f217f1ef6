"""The installer gets a CPU build of PyTorch where there is no GPU, none where nothing trains."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def installer() -> ModuleType:
    found = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def calls(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, target: str, gpu: str | None, fails: str = "-"
) -> list[list[str]]:
    """What pip is asked for, where torch is not there yet and calls that name `fails` do not succeed."""
    made: list[list[str]] = []

    def pip(python: str, *args: str, **options: Any) -> bool:
        made.append(list(args))
        return args[0] != "show" and fails not in args

    monkeypatch.setattr(installer, "pip", pip)
    monkeypatch.setattr(installer.shutil, "which", lambda name: gpu)
    monkeypatch.setattr(installer.sys, "platform", "linux")
    installer.main("python", target)
    return [args for args in made if args[0] == "install"]


def test_no_gpu_no_cuda(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch, package = calls(installer, monkeypatch, ".[train]", None)
    assert torch[torch.index("--index-url") + 1] == "https://download.pytorch.org/whl/cpu"
    assert package[-2:] == ["-e", ".[train]"]


def test_with_a_gpu_the_usual_build(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch, _ = calls(installer, monkeypatch, ".[train]", "/usr/bin/nvidia-smi")
    assert "--index-url" not in torch


def test_where_the_index_cannot_be_reached_the_default_is_tried(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = calls(installer, monkeypatch, ".[dev]", None, fails="--index-url")
    assert "--index-url" in first
    assert "--index-url" not in second


def test_reading_alone_gets_no_torch(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    (package,) = calls(installer, monkeypatch, ".", None)
    assert package[-1] == "."


def test_pip_says_errors_only(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all("-qq" in args for args in calls(installer, monkeypatch, ".[train]", None))
