"""Routers by name."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from rtl_continual.errors import RTLError, unknown_name
from rtl_continual.registry import Origin, Registry, config_problem
from rtl_continual.routing._router import Router
from rtl_continual.routing.flat import FlatRouter

__all__ = [
    "BUILT_IN_ROUTERS",
    "build_router",
    "router_config_class",
    "router_names",
    "router_origin",
]

BUILT_IN_ROUTERS: dict[str, type[Router]] = {"flat": FlatRouter}
"""What the built-in plugin registers."""


def _check(name: str, value: Any) -> str | None:
    if not (isinstance(value, type) and issubclass(value, Router)):
        return f"must be a subclass of rtl_continual.routing.Router, got {value!r}"
    missing = sorted(value.__abstractmethods__)
    if missing:
        return f"{value.__name__} lacks {', '.join(missing)}"
    if getattr(value, "name", None) != name:
        return f"{value.__name__}.name must be '{name}', got {getattr(value, 'name', None)!r}"
    return config_problem(name, getattr(value, "config_class", None))


_ROUTERS: Registry[type[Router]] = Registry("router", _check)


def router_names() -> tuple[str, ...]:
    """The names of all routers, sorted."""
    return tuple(_ROUTERS)


def router_config_class(name: str) -> type[BaseModel]:
    """The options of the router called ``name``.

    Raises:
        RTLError: if there is no such router.
    """
    return _ROUTERS.find(name).config_class


def router_origin(name: str) -> Origin | None:
    """Which plugin brings the router called ``name``; ``None`` if there is no such router."""
    return _ROUTERS.origin(name)


def build_router(config: BaseModel) -> Router:
    """A router that knows no ticket yet, from an instance of its own config class.

    Raises:
        RTLError: if no router has such a config.
    """
    name = getattr(config, "name", "")
    if name in _ROUTERS and type(config) is _ROUTERS[name].config_class:
        router_class: Any = _ROUTERS[name]
        return router_class(config)
    known = [router_class.config_class.__name__ for router_class in _ROUTERS.values()]
    raise RTLError(unknown_name("router config", type(config).__name__, known))
