"""The registry finds what registers itself, refuses two things of one name, and names the nearest."""

import sys
from pathlib import Path

import pytest

from allometry.core.registry import Registry
from allometry.errors import AllometryError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package `colours_here` with two modules that register themselves in its registry."""
    folder = tmp_path / "colours_here"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from allometry.core.registry import Registry\nCOLOURS = Registry('colour', packages=(__name__,))\n"
    )
    for name in ("red", "blue"):
        (folder / f"{name}.py").write_text(
            f"from colours_here import COLOURS\n@COLOURS.register({name!r})\nclass Colour: pass\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "colours_here"
    for name in [name for name in sys.modules if name.startswith("colours_here")]:
        del sys.modules[name]


def test_a_file_in_the_package_is_found(package: str) -> None:
    registry = __import__(package).COLOURS
    assert "colours_here.red" not in sys.modules
    assert list(registry.all()) == ["blue", "red"]
    assert registry["red"].__module__ == "colours_here.red"


def test_an_unknown_name_is_answered_with_the_nearest(package: str) -> None:
    with pytest.raises(AllometryError, match="rde") as error:
        __import__(package).COLOURS["rde"]
    assert "red" in str(error.value) + str(error.value.hint)


def test_two_things_of_one_name_are_refused() -> None:
    registry: Registry[object] = Registry("colour")
    registry.add("red", len)
    with pytest.raises(AllometryError, match=r"builtins\.len"):
        registry.add("red", max)
    assert registry["red"] is len


def test_a_thing_may_be_registered_again() -> None:
    registry: Registry[object] = Registry("colour")
    assert registry.add("red", len) is registry.add("red", len)


def test_order_is_kept_where_it_means_something() -> None:
    kept: Registry[int] = Registry("number", ordered=True)
    by_name: Registry[int] = Registry("number")
    for registry in (kept, by_name):
        registry.add("two", 2)
        registry.add("one", 1)
    assert list(kept) == ["two", "one"]
    assert list(by_name) == ["one", "two"]


def test_what_is_registered_for_a_while_is_forgotten() -> None:
    registry: Registry[object] = Registry("colour")
    registry.add("red", len)
    with registry.temporary():
        registry.add("blue", max)
        assert "blue" in registry
    assert "blue" not in registry
    assert list(registry) == ["red"]


def test_a_failed_search_is_tried_again(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = __import__(package).COLOURS
    monkeypatch.setattr("pkgutil.iter_modules", lambda path: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        registry.all()
    monkeypatch.undo()
    assert list(registry.all()) == ["blue", "red"]
