"""The methods that a run can compare, by name."""

from __future__ import annotations

from typing import Any

from rtl_continual.registry import Registry
from rtl_continual.runs._method import Method, MethodConfig

__all__ = ["METHODS", "method_class"]


def _check(name: str, value: Any) -> str | None:
    if not (isinstance(value, type) and issubclass(value, Method)):
        return f"must be a subclass of rtl_continual.runs.Method, got {value!r}"
    if getattr(value, "name", None) != name:
        return f"{value.__name__}.name must be '{name}', got {getattr(value, 'name', None)!r}"
    config_class: Any = value.config_class
    if not (isinstance(config_class, type) and issubclass(config_class, MethodConfig)):
        return f"{value.__name__}.config_class must be a subclass of MethodConfig"
    return None


METHODS: Registry[type[Method[Any]]] = Registry("method", _check)
"""What plugins have registered, the built-in one included."""


def method_class(name: str) -> type[Method[Any]]:
    """The method called ``name``.

    Raises:
        RTLError: if there is no such method.

    Example:
        >>> method_class("joint").summary
        'one dense network, all data at once'
    """
    return METHODS.find(name)
