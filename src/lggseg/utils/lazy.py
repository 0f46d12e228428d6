"""Public names of a folder that cost nothing until they are used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from lggseg.utils.errors import missing_extra


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
