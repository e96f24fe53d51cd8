"""Routers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from rtl_continual.errors import RTLError, unknown_name
from rtl_continual.routing._router import Router
from rtl_continual.routing.flat import FlatRouter, FlatRouterConfig

__all__ = ["build_router", "router_config_class", "router_names"]

_ROUTERS: dict[str, tuple[type[BaseModel], Callable[[Any], Router]]] = {
    "flat": (FlatRouterConfig, FlatRouter),
}


def router_names() -> tuple[str, ...]:
    """The names of all routers, sorted."""
    return tuple(sorted(_ROUTERS))


def router_config_class(name: str) -> type[BaseModel]:
    """The options of the router called ``name``.

    Raises:
        RTLError: if there is no such router.
    """
    if name not in _ROUTERS:
        raise RTLError(unknown_name("router", name, _ROUTERS))
    return _ROUTERS[name][0]


def build_router(config: BaseModel) -> Router:
    """A router that knows no ticket yet, from an instance of its own config class.

    Raises:
        RTLError: if no router has such a config.
    """
    for config_class, router_class in _ROUTERS.values():
        if type(config) is config_class:
            return router_class(config)
    names = [config_class.__name__ for config_class, _ in _ROUTERS.values()]
    raise RTLError(unknown_name("router config", type(config).__name__, names))
