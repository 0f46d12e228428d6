"""Imports that cost nothing until they are used, or never."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from lggseg.utils.errors import missing_extra

# MONAI imports all of its modules, and each optional package that they find. These two take 3 CPU
# seconds: SageMaker's SDK brings the first, JupyterLab the second. Nothing here needs them.
NOT_FOR_MONAI = ("mlflow", "rfc3987_syntax")


def lazy_names(package: str, names: dict[str, str]) -> tuple[list[str], Callable[[str], Any]]:
    """``__all__`` and ``__getattr__`` of a package whose public names lie in its modules.

    Args:
        package: The full name of the package, its ``__name__``.
        names: The public names of each module, separated by spaces, by the module's name.

    Returns:
        The sorted names, and a function that imports the module of a name when it is asked for.
    """
    home = {name: module for module, text in names.items() for name in text.split()}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(f"{package}.{home[name]}"), name)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("lggseg"):
                raise
            raise ModuleNotFoundError(missing_extra(error), name=error.name) from error

    return sorted(home), get


@contextmanager
def hidden(*modules: str) -> Iterator[None]:
    """Meanwhile these modules count as not installed, but for those that are imported already."""
    absent = [module for module in modules if module not in sys.modules]
    # None makes `import` raise ModuleNotFoundError.
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for module in absent:
            del sys.modules[module]
