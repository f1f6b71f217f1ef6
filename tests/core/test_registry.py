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


def library(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, str]) -> None:
    """Write a package whose files are Python text; its registry is C."""
    for path, source in files.items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def test_one_name_imports_the_file_or_folder_of_that_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: Registry[object] = Registry("shape", packages=("shapes_here",), nested=True)
    source = "SEEN.append(__name__)\n"
    files = {"round.py": source, "flat_square.py": source, "deep/cube.py": source, "deep/ball.py": source}
    library(tmp_path, monkeypatch, "shapes_here", files)
    seen: list[str] = []
    monkeypatch.setattr("builtins.SEEN", seen, raising=False)
    for name, expected in (
        ("round", ["shapes_here.round"]),
        ("flat-square", ["shapes_here.flat_square"]),
        ("deep", ["shapes_here.deep.ball", "shapes_here.deep.cube"]),
    ):
        seen.clear()
        kept.add(name, object())
        kept._things.clear()
        kept._search(only=name.replace("-", "_"))
        assert sorted(seen) == expected


def test_folders_are_searched_only_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(tmp_path, monkeypatch, "beasts_here", {"outer.py": "", "deep/inner.py": ""})
    assert list(Registry("beast", packages=("beasts_here",))) == []
    assert "beasts_here.deep.inner" not in sys.modules
    assert list(Registry("beast", packages=("beasts_here",), nested=True)) == []
    assert "beasts_here.deep.inner" in sys.modules


def test_a_module_that_lacks_an_optional_library_is_left_out_and_any_other_lack_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(tmp_path, monkeypatch, "plants_here", {"oak.py": "import library_that_is_not_here.part\n"})
    spared: Registry[object] = Registry(
        "plant", packages=("plants_here",), without=("library_that_is_not_here",)
    )
    assert "oak" not in spared
    assert list(spared) == []
    with pytest.raises(ModuleNotFoundError, match="library_that_is_not_here"):
        list(Registry("plant", packages=("plants_here",)))


def test_a_file_that_comes_later_is_found_too(package: str, tmp_path: Path) -> None:
    registry = __import__(package).COLOURS
    assert "green" not in registry
    (tmp_path / package / "green.py").write_text(
        f"from {package} import COLOURS\n@COLOURS.register('green')\nclass Colour: pass\n"
    )
    import importlib

    importlib.invalidate_caches()
    assert "green" in registry
