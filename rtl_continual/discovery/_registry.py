"""Shift detectors and clusterers by name."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from rtl_continual.discovery._clusterer import Clusterer
from rtl_continual.discovery._detector import ShiftDetector
from rtl_continual.discovery.adwin import Adwin
from rtl_continual.discovery.classes import ClassesClusterer
from rtl_continual.discovery.gaussian_mixture import GaussianMixtureClusterer
from rtl_continual.discovery.kmeans import KMeansClusterer
from rtl_continual.discovery.page_hinkley import PageHinkley
from rtl_continual.errors import RTLError, unknown_name
from rtl_continual.registry import Registry, config_problem

__all__ = [
    "BUILT_IN_CLUSTERERS",
    "BUILT_IN_DETECTORS",
    "build_clusterer",
    "build_detector",
    "clusterer_config_class",
    "clusterer_names",
    "detector_config_class",
    "detector_names",
]

BUILT_IN_CLUSTERERS: dict[str, type[Clusterer]] = {
    kind.name: kind for kind in (ClassesClusterer, GaussianMixtureClusterer, KMeansClusterer)
}
"""What the built-in plugin registers."""

BUILT_IN_DETECTORS: dict[str, type[ShiftDetector]] = {
    kind.name: kind for kind in (Adwin, PageHinkley)
}
"""What the built-in plugin registers."""


def _check_clusterer(name: str, value: Any) -> str | None:
    return _problem(name, value, Clusterer)


def _check_detector(name: str, value: Any) -> str | None:
    return _problem(name, value, ShiftDetector)


def _problem(name: str, value: Any, kind: type[Clusterer] | type[ShiftDetector]) -> str | None:
    if not (isinstance(value, type) and issubclass(value, kind)):
        return f"must be a subclass of rtl_continual.discovery.{kind.__name__}, got {value!r}"
    if getattr(value, "name", None) != name:
        return f"{value.__name__}.name must be '{name}', got {getattr(value, 'name', None)!r}"
    return config_problem(name, getattr(value, "config_class", None))


_CLUSTERERS: Registry[type[Clusterer]] = Registry("clusterer", _check_clusterer)
_DETECTORS: Registry[type[ShiftDetector]] = Registry("shift detector", _check_detector)


def clusterer_names() -> tuple[str, ...]:
    """The names of all clusterers, sorted."""
    return tuple(_CLUSTERERS)


def detector_names() -> tuple[str, ...]:
    """The names of all shift detectors, sorted."""
    return tuple(_DETECTORS)


def clusterer_config_class(name: str) -> type[BaseModel]:
    """The options of the clusterer called ``name``.

    Raises:
        RTLError: if there is no such clusterer.
    """
    return _CLUSTERERS.find(name).config_class


def detector_config_class(name: str) -> type[BaseModel]:
    """The options of the shift detector called ``name``.

    Raises:
        RTLError: if there is no such detector.
    """
    return _DETECTORS.find(name).config_class


def build_clusterer(config: BaseModel) -> Clusterer:
    """A clusterer from an instance of its own config class.

    Raises:
        RTLError: if no clusterer has such a config.

    Example:
        >>> build_clusterer(clusterer_config_class("kmeans")(clusters=3)).config.clusters
        3
    """
    return _matching(_CLUSTERERS, config)(config)


def build_detector(config: BaseModel) -> ShiftDetector:
    """A shift detector from an instance of its own config class.

    Raises:
        RTLError: if no detector has such a config, or if it needs a package that is missing.
    """
    return _matching(_DETECTORS, config)(config)


def _matching(registry: Registry[Any], config: BaseModel) -> Any:
    name = getattr(config, "name", None)
    if isinstance(name, str) and name in registry and type(config) is registry[name].config_class:
        return registry[name]
    known = [entry.config_class.__name__ for entry in registry.values()]
    raise RTLError(unknown_name(f"{registry.kind} config", type(config).__name__, known))
