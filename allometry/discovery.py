"""Finding what registers itself: a file put into a package is known without being listed anywhere."""

import importlib
import pkgutil


def import_modules(package: str) -> None:
    """Import every module directly inside `package`, so that what they register is known."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
