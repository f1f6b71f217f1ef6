"""Discovery of registered things: a file put into a package is found without being listed anywhere."""

import importlib
import pkgutil


def import_modules(
    package: str, *, only: str | None = None, without: tuple[str, ...] = (), nested: bool = True
) -> None:
    """Import every module inside `package` so that what they register is known, with `nested` at any depth.

    With `only`, import the modules whose own file or one of whose folders has that name. A module that needs
    one of the packages `without` is left out where that package is not installed.
    """
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        name = f"{package}.{module.name}"
        if module.ispkg:
            if not nested:
                continue
            import_modules(name, only=None if module.name == only else only, without=without)
        elif only is None or module.name == only:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.split(".")[0] not in without:
                    raise
