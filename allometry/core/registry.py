"""One mechanism for everything that is registered: model families, laws, studies, run sets, engines, corpora.

A registry maps names to things of one kind. It finds what registers itself: the modules inside the packages
that it searches are imported when it is asked for all its names, or for a name that it does not know. A file
put into such a package is therefore known without being listed anywhere; so is what a plugin registers
(`core.plugins`), and the registry remembers which one did.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from allometry.core import plugins
from allometry.core.errors import AllometryError, unknown

T = TypeVar("T")
U = TypeVar("U")


class Registry(Generic[T]):
    """Hold the things of one kind by name.

    Parameters
    ----------
    kind : str
        What the things are called in messages: "law", "model family".
    packages : tuple of str
        Packages whose modules are imported to find what registers itself.
    nested : bool
        Whether the modules of their subpackages are imported too, at any depth.
    without : tuple of str
        Other libraries, such as torch: a module that needs one of them is left out where it is not installed.
    ordered : bool
        Whether names keep the order in which they were registered; otherwise they are sorted.

    Notes
    -----
    Asked for one name, a registry first imports only the file or folder of that name (hyphens are underscores
    there), so that one thing is found without loading all the others.

    Examples
    --------
    >>> colours = Registry("colour")
    >>> colours.add("red", "#f00")
    '#f00'
    >>> colours["red"]
    '#f00'
    >>> "blue" in colours
    False
    """

    def __init__(
        self,
        kind: str,
        *,
        packages: tuple[str, ...] = (),
        nested: bool = False,
        without: tuple[str, ...] = (),
        ordered: bool = False,
    ) -> None:
        self.kind = kind
        self._packages, self._nested, self._without = packages, nested, without
        self._ordered = ordered
        self._things: dict[str, T] = {}
        self._plugins: dict[str, str] = {}

    def add(self, name: str, thing: U) -> U:
        """Register `thing` under `name` and return it.

        Raises AllometryError if another thing has the name. A module that is imported anew replaces its own, and
        so does a plugin.
        """
        plugin = plugins.current()
        if plugin is not None and self._plugins.get(name) != plugin:
            self._search_packages(only=name.replace("-", "_"))
        known = self._things.get(name)
        if known is not None and known is not thing and not self._replaces(name, known, thing, plugin):
            ours, theirs = self._plugins.get(name, "Allometry itself"), plugin or "Allometry itself"
            where = f"in {ours} and in {theirs}"
            if ours == theirs:
                where = f"{_origin(known)} and {_origin(thing)}"
            raise AllometryError(
                f"two of kind {self.kind} are called {name!r}: {where}",
                hint="rename one of them",
            )
        self._things[name] = thing  # type: ignore[assignment]
        if plugin is not None:
            self._plugins[name] = plugin
        return thing

    def _replaces(self, name: str, known: object, thing: object, plugin: str | None) -> bool:
        """Return whether a thing may take the place of the one that is known: defined anew, in a notebook's next
        cell, by the plugin loaded again, or by a script that loads its own file as a plugin.
        """
        own = plugin is not None and self._plugins.get(name) == plugin
        return own or _defined_alike(known, thing) or getattr(known, "__module__", None) == "__main__"

    def plugin(self, name: str) -> plugins.Plugin | None:
        """Return the plugin that registered `name`, or None."""
        owner = self._plugins.get(name) if name in self else None
        return plugins.loaded().get(owner) if owner is not None else None

    def register(self, name: str) -> Callable[[U], U]:
        """Return a decorator that registers a class or function under `name`."""
        return lambda thing: self.add(name, thing)

    def __getitem__(self, name: str) -> T:
        """Return the thing called `name`; AllometryError with the nearest names if there is none."""
        if name not in self:
            raise self.unknown(name)
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name not in self._things:
            self._search(only=name.replace("-", "_"))
            if name not in self._things:
                self._search()
        return name in self._things

    def unknown(self, name: object, also: Iterable[str] = ()) -> AllometryError:
        """Return the error of a name that is not known, with the nearest names: those registered and `also`."""
        return unknown(self.kind, str(name), [*also, *self.all()])

    def all(self) -> dict[str, T]:
        """Return every registered thing by name."""
        self._search()
        return dict(self._things) if self._ordered else dict(sorted(self._things.items()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self.all())

    @contextmanager
    def temporary(self) -> Iterator[None]:
        """Forget at the end of the block what was registered in it (for tests and examples)."""
        before, owners = self.all(), dict(self._plugins)
        try:
            yield
        finally:
            self._things, self._plugins = before, owners

    def _search(self, only: str | None = None) -> None:
        self._search_packages(only)
        if only is None:
            plugins.search()

    def _search_packages(self, only: str | None = None) -> None:
        for package in self._packages:
            self._import_modules(package, only)

    def _import_modules(self, package: str, only: str | None) -> None:
        """Import the modules inside `package`; with `only`, those whose file or folder has that name."""
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            name = f"{package}.{module.name}"
            if module.ispkg:
                if self._nested:
                    self._import_modules(name, None if module.name == only else only)
            elif only in (None, module.name):
                self._import(name)

    def _import(self, module: str) -> None:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in self._without:
                raise


def _defined_alike(known: object, thing: object) -> bool:
    """Return whether two classes or functions come from one place, so that one is the other imported anew."""
    return hasattr(known, "__qualname__") and _origin(known) == _origin(thing)


def _origin(thing: object) -> str:
    """Return the module and name that a thing was defined with."""
    module = getattr(thing, "__module__", type(thing).__module__)
    name = getattr(thing, "__qualname__", None) or getattr(thing, "name", None) or repr(thing)
    return f"{module}.{name}"
