"""Finding what registers itself: a file put into a package is known without being listed anywhere."""

import importlib
import pkgutil


def import_modules(package: str, name: str | None = None) -> None:
    """Import every module inside `package`, at any depth, so that what they register is known.

    With `name`, only the modules whose own file or one of whose folders has that name.
    """
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, prefix=f"{package}."):
        if name is None or name in module.name.removeprefix(package).split("."):
            importlib.import_module(module.name)
