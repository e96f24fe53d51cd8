"""Shift detectors and clusterers by name."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel

from rtl_continual.discovery._clusterer import Clusterer
from rtl_continual.discovery._detector import ShiftDetector
from rtl_continual.discovery.adwin import Adwin
from rtl_continual.discovery.classes import ClassesClusterer
from rtl_continual.discovery.gaussian_mixture import GaussianMixtureClusterer
from rtl_continual.discovery.kmeans import KMeansClusterer
from rtl_continual.discovery.page_hinkley import PageHinkley
from rtl_continual.registry import ClassRegistry, NamedSection

__all__ = [
    "BUILT_IN_CLUSTERERS",
    "BUILT_IN_DETECTORS",
    "ClustererSection",
    "DetectorSection",
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


_CLUSTERERS: ClassRegistry[Clusterer] = ClassRegistry("clusterer", Clusterer)
_DETECTORS: ClassRegistry[ShiftDetector] = ClassRegistry("shift detector", ShiftDetector)

ClustererSection = Annotated[BaseModel, NamedSection(_CLUSTERERS, default="gaussian_mixture")]
"""The type of a field that holds a clusterer's options."""

DetectorSection = Annotated[BaseModel, NamedSection(_DETECTORS, default="page_hinkley")]
"""The type of a field that holds a shift detector's options."""


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
    return _CLUSTERERS.config_class(name)


def detector_config_class(name: str) -> type[BaseModel]:
    """The options of the shift detector called ``name``.

    Raises:
        RTLError: if there is no such detector.
    """
    return _DETECTORS.config_class(name)


def build_clusterer(config: BaseModel) -> Clusterer:
    """A clusterer from an instance of its own config class.

    Raises:
        RTLError: if no clusterer has such a config.

    Example:
        >>> build_clusterer(clusterer_config_class("kmeans")(clusters=3)).config.clusters
        3
    """
    return _CLUSTERERS.build(config)


def build_detector(config: BaseModel) -> ShiftDetector:
    """A shift detector from an instance of its own config class.

    Raises:
        RTLError: if no detector has such a config, or if it needs a package that is missing.
    """
    return _DETECTORS.build(config)
