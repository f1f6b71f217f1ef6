"""Finding what registers itself: a file put into a package is known without being listed anywhere."""

import importlib
import pkgutil


def import_modules(package: str, *, only: str | None = None, without: tuple[str, ...] = ()) -> None:
    """Import every module directly inside `package`, or `only` that one, so that what it registers is known.

    A module that needs one of the packages `without` is left out where that package is not installed.
    """
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if only is None or module.name == only:
            try:
                importlib.import_module(f"{package}.{module.name}")
            except ModuleNotFoundError as error:
                if error.name is None or error.name.split(".")[0] not in without:
                    raise
