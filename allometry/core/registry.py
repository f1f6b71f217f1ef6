"""One mechanism for everything that is registered: model families, laws, studies, engines, corpora, figures.

A registry maps names to things of one kind. It finds what registers itself: every module directly inside the
packages that it watches is imported the first time that it is asked for all its names or for a name that it
does not know. A file put into such a package is therefore known without being listed anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from allometry.errors import AllometryError, unknown

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
    ordered : bool
        Whether names keep the order in which they were registered; otherwise they are sorted.

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

    def __init__(self, kind: str, *, packages: tuple[str, ...] = (), ordered: bool = False) -> None:
        self.kind = kind
        self._packages = packages
        self._ordered = ordered
        self._things: dict[str, T] = {}
        self._searched = False

    def add(self, name: str, thing: U) -> U:
        """Register `thing` under `name` and return it.

        Raises AllometryError if another thing has the name. A module that is imported anew replaces its own.
        """
        known = self._things.get(name)
        if known is not None and known is not thing and _origin(known) != _origin(thing):
            raise AllometryError(
                f"two of kind {self.kind} are called {name!r}: {_origin(known)} and {_origin(thing)}",
                hint="rename one of them",
            )
        self._things[name] = thing  # type: ignore[assignment]
        return thing

    def register(self, name: str) -> Callable[[U], U]:
        """Return a decorator that registers a class or function under `name`."""
        return lambda thing: self.add(name, thing)

    def __getitem__(self, name: str) -> T:
        """Return the thing called `name`; AllometryError with the nearest names if there is none."""
        if name not in self._things:
            self._search()
        if name not in self._things:
            raise unknown(self.kind, name, self._things)
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._things:
            self._search()
        return name in self._things

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
        before = self.all()
        try:
            yield
        finally:
            self._things = before

    def _search(self) -> None:
        if self._searched:
            return
        self._searched = True
        try:
            for package in self._packages:
                path = importlib.import_module(package).__path__
                for module in pkgutil.iter_modules(path):
                    importlib.import_module(f"{package}.{module.name}")
        except BaseException:
            self._searched = False
            raise


def _origin(thing: object) -> str:
    """Return the module and name that a thing was defined with."""
    module = getattr(thing, "__module__", type(thing).__module__)
    name = getattr(thing, "__qualname__", None) or getattr(thing, "name", None) or repr(thing)
    return f"{module}.{name}"
