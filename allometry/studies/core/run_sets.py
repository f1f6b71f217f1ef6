"""What a design is: runs that spend a given compute, declared apart from the questions that they answer.

One run feeds many studies. A study names the designs that it reads (`Study.designs`), and a collection of
studies gives every design one share of its compute, so that two studies of the same design ask for the same
runs, which are trained once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from allometry.discovery import import_modules
from allometry.errors import AllometryError, unknown

if TYPE_CHECKING:
    from allometry.train.config import DataConfig, RunConfig

Design = Callable[[float, "DataConfig"], "tuple[RunConfig, ...]"]
"""(compute, data) -> runs. `compute` is in training FLOPs, everything counted. Larger compute must never ask
for less. Raises AllometryError (see `too_little`) where `compute` cannot ask the question at all.
"""

_DESIGNS: dict[str, Design] = {}


def register(design: Design) -> Design:
    """Function decorator: makes a design known by the function's name."""
    _DESIGNS[design.__name__] = design
    return design


def designs() -> dict[str, Design]:
    """Every design by name; a file put into this package is found without being listed anywhere."""
    import_modules("allometry.studies.designs")
    return dict(sorted(_DESIGNS.items()))


def design(name: str) -> Design:
    """A design by name; AllometryError with the nearest names for an unknown one."""
    if name not in _DESIGNS and name not in designs():
        raise unknown("design", name, _DESIGNS)
    return _DESIGNS[name]


def too_little(compute: float, name: str) -> AllometryError:
    """The error of a design that `compute` FLOPs cannot pay for."""
    return AllometryError(f"{compute:.1e} FLOPs are too few for the {name}", hint="allow more time")
