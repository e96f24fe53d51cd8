"""Routers: which ticket serves which input."""

from rtl_continual.routing._mixture import FeatureMixture, likelihood_level
from rtl_continual.routing._outputs import OutputRouter, OutputsOf
from rtl_continual.routing._registry import (
    BUILT_IN_ROUTERS,
    build_router,
    router_config_class,
    router_names,
    router_origin,
)
from rtl_continual.routing._router import UNKNOWN, Router, RouterConfig, Routing
from rtl_continual.routing.flat import FlatRouter, FlatRouterConfig, GateLearner
from rtl_continual.routing.hierarchical import HierarchicalRouter, HierarchicalRouterConfig
from rtl_continual.routing.kmeans import KMeansRouter, KMeansRouterConfig
from rtl_continual.routing.mahalanobis import MahalanobisRouter, MahalanobisRouterConfig
from rtl_continual.routing.prototype import PrototypeRouter, PrototypeRouterConfig

__all__ = [
    "BUILT_IN_ROUTERS",
    "UNKNOWN",
    "FeatureMixture",
    "FlatRouter",
    "FlatRouterConfig",
    "GateLearner",
    "HierarchicalRouter",
    "HierarchicalRouterConfig",
    "KMeansRouter",
    "KMeansRouterConfig",
    "MahalanobisRouter",
    "MahalanobisRouterConfig",
    "OutputRouter",
    "OutputsOf",
    "PrototypeRouter",
    "PrototypeRouterConfig",
    "Router",
    "RouterConfig",
    "Routing",
    "build_router",
    "likelihood_level",
    "router_config_class",
    "router_names",
    "router_origin",
]
