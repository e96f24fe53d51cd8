"""Public names that are imported on first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__`` (PEP 562).

    Rooms that ``rtl --help`` reads, or that render a report, must not wait for torch.

    Args:
        package: the package's ``__name__``.
        modules: for each public name the module it is in, relative to the package.

    Example:
        >>> get, names = lazy_exports("rtl_continual", {"unknown_name": "errors"})
        >>> get("unknown_name").__module__
        'rtl_continual.errors'
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names
