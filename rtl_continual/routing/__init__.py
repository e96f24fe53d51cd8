"""Routers: which ticket serves which input."""

from rtl_continual.routing._mixture import FeatureMixture
from rtl_continual.routing._registry import (
    BUILT_IN_ROUTERS,
    build_router,
    router_config_class,
    router_names,
    router_origin,
)
from rtl_continual.routing._router import UNKNOWN, Router, Routing
from rtl_continual.routing.flat import FlatRouter, FlatRouterConfig

__all__ = [
    "BUILT_IN_ROUTERS",
    "UNKNOWN",
    "FeatureMixture",
    "FlatRouter",
    "FlatRouterConfig",
    "Router",
    "Routing",
    "build_router",
    "router_config_class",
    "router_names",
    "router_origin",
]
