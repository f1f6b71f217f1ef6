"""Packages that cannot be had."""

from pathlib import Path

import pytest

from allometry.data import packages
from allometry.data.packages import Package, fetch
from allometry.errors import AllometryError

ABSENT = Package(requirement="six==1.16.0", file="six-1.16.0-py2.py3-none-any.whl", sha256="0" * 64, size=1)


def test_what_could_not_be_had_is_not_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(packages, "_refused", {})
    with pytest.raises(AllometryError, match=r"pip could not download six==1\.16\.0") as first:
        fetch(ABSENT, tmp_path)
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: pytest.fail("asked again"))
    with pytest.raises(AllometryError) as second:
        fetch(ABSENT, tmp_path)
    assert second.value is first.value
    assert "check the network" in str(second.value)
