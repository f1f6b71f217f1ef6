"""The registry finds what registers itself, refuses two things of one name, and names the nearest."""

import importlib
import sys
from pathlib import Path

import pytest

from allometry.core.errors import AllometryError
from allometry.core.registry import Registry


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


def library(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, modules: dict[str, str], **options: object
) -> Registry[object]:
    """Write a package of modules that register `object()` under a name; return its registry."""
    for path, thing in modules.items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(f"from {name} import THINGS\nTHINGS.add({thing!r}, object())\n")
    source = f"from allometry.core.registry import Registry\nTHINGS = Registry('thing', **{options!r})\n"
    (folder / name / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    things: Registry[object] = importlib.import_module(name).THINGS
    return things


@pytest.mark.parametrize(
    ("asked", "imported"),
    [
        ("round", {"round"}),
        ("flat-square", {"flat_square"}),
        ("deep", {"deep.deep", "deep.ball"}),
        ("cube", {"other.cube"}),
    ],
)
def test_one_name_imports_the_file_or_folder_of_that_name_alone(
    asked: str, imported: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {
        "round.py": "round", "flat_square.py": "flat-square", "deep/deep.py": "deep", "deep/ball.py": "ball",
        "other/cube.py": "cube", "other/cone.py": "cone",
    }  # fmt: skip
    things = library(tmp_path, monkeypatch, "shapes", modules, packages=("shapes",), nested=True)
    assert things[asked] is not None
    files = {str(Path(path).with_suffix("")).replace("/", ".") for path in modules}
    assert {file for file in files if f"shapes.{file}" in sys.modules} == imported


@pytest.mark.parametrize(("nested", "expected"), [(False, ["outer"]), (True, ["inner", "outer"])])
def test_folders_are_searched_only_where_they_are_asked_for(
    nested: bool, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {"outer.py": "outer", "deep/inner.py": "inner"}
    things = library(tmp_path, monkeypatch, "beasts", modules, packages=("beasts",), nested=nested)
    assert list(things) == expected


def test_a_module_that_lacks_an_optional_library_is_left_out_and_any_other_lack_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"packages": ("plants",), "without": ("not_installed",)}
    things = library(tmp_path, monkeypatch, "plants", {"elm.py": "elm"}, **options)
    (tmp_path / "plants" / "oak.py").write_text("import not_installed.part\n")
    assert "oak" not in things
    assert list(things) == ["elm"]
    (tmp_path / "plants" / "fir.py").write_text("import neither_is_this\n")
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="neither_is_this"):
        things.all()


def test_two_values_of_one_name_are_refused() -> None:
    """Values have no place where they were defined: only the same one may come again."""
    registry: Registry[list[int]] = Registry("list")
    registry.add("one", [1])
    with pytest.raises(AllometryError, match="two of kind list"):
        registry.add("one", [2])


def test_a_file_that_comes_later_is_found_too(package: str, tmp_path: Path) -> None:
    registry = __import__(package).COLOURS
    assert "green" not in registry
    (tmp_path / package / "green.py").write_text(
        f"from {package} import COLOURS\n@COLOURS.register('green')\nclass Colour: pass\n"
    )
    importlib.invalidate_caches()
    assert "green" in registry
