"""The NumPy code of a law is kept in the cache: it is the law's, whatever lies there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from allometry.laws import law as module
from allometry.laws.law import Compiled, Law, compiled, internal
from allometry.laws.zoo import get

N, D = np.array([1e6, 1e8]), np.array([1e8, 1e10])


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path))
    return tmp_path / "laws"


def afresh(law: Law) -> Compiled:
    """The code of a law as a new process has it."""
    compiled.cache_clear()
    internal.cache_clear()
    return compiled(law)


def constants(law: Law) -> list[float]:
    return [float(next(iter(law.published.values()))[name]) for name in law.parameter_names]


@pytest.mark.parametrize("name", ["chinchilla", "m4"])
def test_a_kept_law_needs_no_sympy_and_gives_the_same_bits(
    name: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = get(name)
    at = [*(np.array([1e8, 1e9]) for _ in law.inputs), *(np.float64(0.7) for _ in law.parameters)]
    with np.errstate(all="ignore"):
        made = afresh(law).gradient(*at)
        first = internal(law, (), ()).natural
        assert len(list(kept.iterdir())) == 2
        monkeypatch.setattr(module, "code", None)  # what derives
        again = afresh(law)
        assert first is not internal(law, (), ()).natural
        for one, other in zip(made, again.gradient(*at), strict=True):
            np.testing.assert_array_equal(one, other)


def test_another_law_of_the_same_name_is_another(kept: Path) -> None:
    law = get("chinchilla")
    at = [N, D, *constants(law)]
    first = afresh(law).value(*at)
    other = afresh(replace(law, expression=f"2*({law.expression})")).value(*at)
    np.testing.assert_allclose(other, 2 * first, rtol=1e-12)
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", json.dumps({"both": 3})])
def test_a_damaged_file_is_made_again(damage: str, kept: Path) -> None:
    law = get("chinchilla")
    at = [N, D, *constants(law)]
    value = afresh(law).value(*at)
    (file,) = kept.iterdir()
    sound = file.read_bytes()
    file.write_text(damage)
    np.testing.assert_array_equal(afresh(law).value(*at), value)
    assert file.read_bytes() == sound


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path / "file"))
    law = get("chinchilla")
    assert np.all(np.isfinite(afresh(law).value(N, D, *constants(law))))
