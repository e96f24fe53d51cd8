"""Routers by name."""

from __future__ import annotations

from pydantic import BaseModel

from rtl_continual.registry import ClassRegistry, Origin
from rtl_continual.routing._router import Router
from rtl_continual.routing.flat import FlatRouter
from rtl_continual.routing.hierarchical import HierarchicalRouter
from rtl_continual.routing.kmeans import KMeansRouter
from rtl_continual.routing.mahalanobis import MahalanobisRouter
from rtl_continual.routing.prototype import PrototypeRouter

__all__ = [
    "BUILT_IN_ROUTERS",
    "build_router",
    "router_config_class",
    "router_names",
    "router_origin",
]

BUILT_IN_ROUTERS: dict[str, type[Router]] = {
    "flat": FlatRouter,
    "hierarchical": HierarchicalRouter,
    "kmeans": KMeansRouter,
    "mahalanobis": MahalanobisRouter,
    "prototype": PrototypeRouter,
}
"""What the built-in plugin registers."""


_ROUTERS: ClassRegistry[Router] = ClassRegistry("router", Router)


def router_names() -> tuple[str, ...]:
    """The names of all routers, sorted."""
    return tuple(_ROUTERS)


def router_config_class(name: str) -> type[BaseModel]:
    """The options of the router called ``name``.

    Raises:
        RTLError: if there is no such router.
    """
    return _ROUTERS.config_class(name)


def router_origin(name: str) -> Origin | None:
    """Which plugin brings the router called ``name``; ``None`` if there is no such router."""
    return _ROUTERS.origin(name)


def build_router(config: BaseModel) -> Router:
    """A router that knows no ticket yet, from an instance of its own config class.

    Raises:
        RTLError: if no router has such a config.
    """
    return _ROUTERS.build(config)
