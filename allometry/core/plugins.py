"""Plugins: Python files of the user's, or installed packages, that register model families, laws, corpora, tokenizers,
studies and engines.

A plugin is named by `--plugin FILE`, by the variable ALLOMETRY_PLUGINS (paths, divided as in PATH), or by an entry
point of the group `allometry.plugins` of an installed package. Everything that it registers remembers it
(`Registry.plugin`), and the hash of its source is part of the identity of the runs that use it: a run of a plugin that
was edited since is another run.

Workers load the same files: those of this machine find them in ALLOMETRY_PLUGINS, which `use` sets, and tasks for a
cluster name them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from allometry.core.errors import AllometryError

VARIABLE = "ALLOMETRY_PLUGINS"
GROUP = "allometry.plugins"


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin. `digest` is a hash of its source and of what it imports from its own folder."""

    name: str
    path: Path
    digest: str

    @property
    def tag(self) -> str:
        """Return what a run keeps of the plugin: "my_things.py@1f3a9c2e"."""
        return f"{self.name}@{self.digest}"


_loaded: dict[str, Plugin] = {}
_loading: list[str] = []
_searched: set[str] = set()


def loaded() -> dict[str, Plugin]:
    """Return the plugins of this process by name."""
    return dict(_loaded)


def current() -> str | None:
    """Return the name of the plugin that is being loaded, if any is."""
    return _loading[-1] if _loading else None


def paths() -> list[str]:
    """Return the files of the plugins of this process, for tasks that other machines carry out."""
    return [str(plugin.path) for plugin in _loaded.values()]


def use(files: Iterable[str | Path]) -> list[Plugin]:
    """Load plugins from files, here and in every worker that this process starts.

    Raises AllometryError for a file that is not there, has an error in it, or has the name of another plugin.
    """
    found = [load(file) for file in files]
    named = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    everything = dict.fromkeys([*named, *(str(plugin.path) for plugin in found)])
    if everything:
        os.environ[VARIABLE] = os.pathsep.join(everything)
    return found


def load(file: str | Path) -> Plugin:
    """Load one plugin from a Python file, or from a folder that is a package. One that is loaded already is loaded
    again only if its source has changed.
    """
    path = Path(file).expanduser().resolve()
    main = path / "__init__.py" if path.is_dir() else path
    if main.suffix != ".py" or not main.is_file():
        raise AllometryError(
            f"{file} is no plugin: a plugin is a Python file, or a folder with an __init__.py",
            hint="--plugin my_things.py",
        )
    known = _loaded.get(path.name)
    if known is not None and known.path != path:
        raise AllometryError(
            f"two plugins are called {path.name}: {known.path} and {path}", hint="rename one of the files"
        )
    module = f"allometry_plugin_{path.stem}"
    if known is not None and known.digest == _digest(path, sys.modules.get(module)):
        return known
    with _as_current(path.name):
        found = _execute(module, main, path)
    _loaded[path.name] = Plugin(path.name, path, _digest(path, found))
    return _loaded[path.name]


@contextmanager
def _as_current(name: str) -> Iterator[None]:
    _loading.append(name)
    try:
        yield
    finally:
        _loading.pop()


def _execute(name: str, main: Path, path: Path) -> ModuleType:
    """Run a plugin's file as a module of that name; its folder is searched for what it imports."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    where = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, main, submodule_search_locations=where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):
            raise _explained(error, main) from error
        raise
    return module


def _explained(error: Exception, main: Path) -> AllometryError:
    """Return an error of a plugin's own code: in which line, and what it says."""
    again = f"mend it, then: allometry check {main.name}"
    if isinstance(error, SyntaxError) and error.filename:
        said = f": {error.text.strip()}" if error.text else ""
        return AllometryError(
            f"{Path(error.filename).name}, line {error.lineno}: {error.msg}{said}", hint=again
        )
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(main)
    ]
    where = f"{main.name}, line {lines[-1]}" if lines else main.name
    if isinstance(error, AllometryError):
        return AllometryError(f"{where}: {error.message}", hint=error.hint, cli_hint=error.cli_hint)
    if isinstance(error, ModuleNotFoundError):
        again = f"install {error.name}, or leave the import out"
    return AllometryError(f"{where}: {type(error).__name__}: {error}", hint=again)


def _digest(path: Path, module: ModuleType | None) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a plugin's source and of the modules from its folder that are
    imported by it.
    """
    files = {path} if path.is_file() else set(path.rglob("*.py"))
    if path.is_file() and module is not None:
        files |= _imported(module, path.parent, set())
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(file.relative_to(path.parent).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def _imported(module: ModuleType, folder: Path, seen: set[str]) -> set[Path]:
    """Return the files inside `folder` of the modules that a module's names come from, and of theirs."""
    seen.add(module.__name__)
    files: set[Path] = set()
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        other = sys.modules.get(name) if isinstance(name, str) else None
        file = getattr(other, "__file__", None)
        if other is None or not file or name in seen:
            continue
        if Path(file).resolve().is_relative_to(folder) and "site-packages" not in Path(file).parts:
            files |= {Path(file).resolve(), *_imported(other, folder, seen)}
    return files


def search() -> None:
    """Load the plugins that ALLOMETRY_PLUGINS and the entry points of installed packages name, once."""
    if _loading:
        return
    for part in os.environ.get(VARIABLE, "").split(os.pathsep):
        if part and part not in _searched:
            _searched.add(part)
            load(part)
    if GROUP not in _searched:
        _searched.add(GROUP)
        for entry in importlib.metadata.entry_points(group=GROUP):
            _load_entry(entry)


def _load_entry(entry: importlib.metadata.EntryPoint) -> None:
    """Import the module that an installed package names as its plugin."""
    spec = importlib.util.find_spec(entry.module)
    if spec is None or spec.origin is None:
        raise AllometryError(
            f"the plugin {entry.name} is installed and its module {entry.module} is not there",
            hint="install the package again, or uninstall it",
        )
    main = Path(spec.origin)
    path = main.parent if main.name == "__init__.py" else main
    with _as_current(entry.name):
        try:
            module = importlib.import_module(entry.module)
        except Exception as error:
            raise _explained(error, main) from error
    _loaded[entry.name] = Plugin(entry.name, path, _digest(path, module))


def require(tags: Iterable[str]) -> None:
    """Refuse to train with a plugin that is not the one with which the run was planned.

    Raises AllometryError where a plugin is not loaded, or its source has changed.
    """
    for tag in tags:
        name, _, digest = tag.rpartition("@")
        search()
        plugin = _loaded.get(name)
        if plugin is None:
            raise AllometryError(
                f"the run needs the plugin {name}, which is not loaded",
                hint=f"allometry.load_plugins({name!r})",
                cli_hint=f"--plugin {name}",
            )
        if plugin.digest != digest:
            raise AllometryError(
                f"{name} has changed since this run was planned, so it would be another run",
                hint="the same command plans the runs of the changed plugin; to go on with the old ones restore "
                "the file",
            )
