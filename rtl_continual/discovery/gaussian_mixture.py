"""A Gaussian mixture whose components are joined until clear gaps are left."""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from rtl_continual.discovery._clusterer import Clusterer
from rtl_continual.discovery._gap import find_gap
from rtl_continual.discovery._space import principal_space

__all__ = ["GaussianMixtureClusterer", "GaussianMixtureConfig"]

SMALL_GROUP = 20
"""Fewer samples cannot describe a component or show a gap."""

FAR_DEVIATIONS = 6.0
"""A few samples this far from every group are outliers."""


class GaussianMixtureConfig(BaseModel):
    """Options of the clusterer ``gaussian_mixture``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["gaussian_mixture"] = "gaussian_mixture"
    components: int = Field(
        8, ge=1, description="so many Gaussians (fewer for few samples) before they are joined"
    )
    axes: int = Field(24, ge=1, description="leading principal axes in which to look for groups")
    max_valley: float = Field(
        0.1,
        gt=0,
        le=1,
        description="two groups stay apart if the density between them falls below this "
        "fraction of the lower peak; lower finds fewer groups",
    )
    max_clusters: int | None = Field(
        None, ge=1, description="join on until at most so many groups are left"
    )
    remove_classes: bool = Field(
        True,
        description="where labels are at hand, subtract each class's mean features first, so "
        "that groups are no classes",
    )
    fit_samples: int = Field(
        2000, ge=50, description="fit on at most so many samples; the others are only assigned"
    )
    seed: int = Field(0, ge=0, description="of the initial components")


class GaussianMixtureClusterer(Clusterer):
    """The data choose the number of groups.

    A Gaussian mixture with more components than groups are expected describes the density. (The
    Bayesian information criterion is no help: it gives several components to one skewed or
    many-sided group, 8 to the five digit domains.) Then the two groups with the shallowest valley
    between them are joined, again and again, until every valley left is deeper than
    ``max_valley`` (see :func:`find_gap`).

    ``max_valley`` was derived from two streams with 24 axes: true domains, in pairs, leave
    valleys of 0.00 to 0.10, pieces of one domain 0.2 to 1.0. The exception is the digit domain
    ``photo``, whose backgrounds come from two photographs and leave gaps as deep as those between
    domains; only ``max_clusters`` helps there.

    Example:
        >>> import torch
        >>> draw = torch.Generator().manual_seed(0)
        >>> x = torch.randn(300, 4, generator=draw)
        >>> x[100:] += 9
        >>> np.bincount(GaussianMixtureClusterer().cluster(x)).tolist()
        [200, 100]
    """

    name: ClassVar[str] = "gaussian_mixture"
    config_class: ClassVar[type[BaseModel]] = GaussianMixtureConfig
    config: GaussianMixtureConfig

    def _labels(self, x: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        if targets is not None and self.config.remove_classes:
            x = _without_classes(x, targets)
        z = principal_space(x, axes=self.config.axes)
        components = min(self.config.components, len(z) // SMALL_GROUP)
        if components < 2:
            return np.zeros(len(z), dtype=np.int64)
        rows = np.linspace(0, len(z) - 1, min(len(z), self.config.fit_samples)).astype(int)
        model = GaussianMixture(
            components,
            reg_covar=1e-3,
            random_state=self.config.seed,
            max_iter=60,
            tol=1e-2,
        )
        with warnings.catch_warnings():
            # Repeated rows give fewer different starting points than components.
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = model.fit(z[rows]).predict(z)
        return self._joined(z, labels)

    def _joined(self, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Join groups until every pair has a gap."""
        labels = _without_small(z, labels)
        groups = {int(i): z[labels == i] for i in np.unique(labels)}
        depths = {
            (a, b): find_gap(groups[a], groups[b]).valley for a in groups for b in groups if a < b
        }
        while depths:
            (a, b), depth = max(depths.items(), key=lambda item: item[1])
            most = self.config.max_clusters or len(groups)
            if depth < self.config.max_valley and len(groups) <= most:
                break
            labels = np.where(labels == b, a, labels)
            groups[a] = z[labels == a]
            del groups[b]
            depths = {pair: d for pair, d in depths.items() if not {a, b} & set(pair)}
            for other in groups:
                if other != a:
                    pair = (min(a, other), max(a, other))
                    depths[pair] = find_gap(groups[pair[0]], groups[pair[1]]).valley
        return labels


def _without_small(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Give groups too small to show a gap to the nearest large one, unless they are far from it.

    Near means within :data:`FAR_DEVIATIONS` of the large group's mean, along the line between.
    """
    counts = np.bincount(labels)
    large = np.flatnonzero(counts >= SMALL_GROUP)
    for small in np.flatnonzero((counts > 0) & (counts < SMALL_GROUP)):
        middle = z[labels == small].mean(axis=0)
        distances = []
        for group in large:
            members = z[labels == group]
            line = middle - members.mean(axis=0)
            length = float(np.linalg.norm(line))
            spread = float((members @ line / max(length, 1e-12)).std())
            distances.append(length / max(spread, 1e-12))
        if distances and min(distances) < FAR_DEVIATIONS:
            labels = np.where(labels == small, large[int(np.argmin(distances))], labels)
    return labels


def _without_classes(x: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each class's mean moved to the common mean."""
    values, rows = np.unique(targets, return_inverse=True)
    sums = np.zeros((len(values), x.shape[1]))
    np.add.at(sums, rows, x)
    means = sums / np.bincount(rows)[:, None]
    return np.asarray(x - means[rows] + x.mean(axis=0))
