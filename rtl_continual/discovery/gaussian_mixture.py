"""A Gaussian mixture whose components are joined until clear gaps are left."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from rtl_continual.discovery._class_mixture import fit_domains
from rtl_continual.discovery._clusterer import Clusterer
from rtl_continual.discovery._gap import find_gap
from rtl_continual.discovery._joining import class_gap, join_pieces
from rtl_continual.discovery._space import principal_space

__all__ = ["GaussianMixtureClusterer", "GaussianMixtureConfig"]

SMALL_GROUP = 20
"""Fewer samples cannot describe a component or show a gap."""

COUNTS = (2, 3, 4, 5, 6, 8, 12)
"""Numbers of components tried with labels, up to the one that the options allow."""

AGREED = 0.95
"""Two answers confirm each other from this adjusted Rand index on."""

FIRST = (4, 6)
"""If the fits with so many components find one group alone, no others are made.

In 102 data sets (two streams, seeds 10 to 12, one to three domains each) no border was missed, one
cut through a domain was avoided, and 60 needed a third of the work. Fewer components will not do:
the fits with two and three often take two domains for one.
"""

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
        description="without labels two groups stay apart if the density between them falls below "
        "this fraction of the lower peak; lower finds fewer groups",
    )
    max_class_valley: float = Field(
        0.06, gt=0, le=1, description="the same where labels are at hand, within classes"
    )
    min_share: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="with labels: a group smaller than this share of the largest one is a look of "
        "the group that it is least apart from, if any sample lies between them; 0 is off",
    )
    max_clusters: int | None = Field(
        None, ge=1, description="join on until at most so many groups are left"
    )
    use_classes: bool = Field(
        True,
        description="where labels are at hand, look for groups that differ within classes, so "
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
    between them are joined, again and again, until only clear gaps are left (see
    :func:`find_gap`).

    With labels the components are domains with a place of their own for each class
    (:func:`fit_domains`), for several numbers of components; valleys are looked for within classes
    (:func:`class_gap`); and a group that is rare beside another and connected to it is one of
    its looks. The answer with most groups that the fit with another number of components confirms
    counts.

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
        if targets is not None and self.config.use_classes:
            return self._within_classes(x, np.unique(targets, return_inverse=True)[1])
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
        return join_pieces(
            _without_small(z, labels),
            lambda a, b: find_gap(z[a], z[b]).valley,
            max_valley=self.config.max_valley,
            max_clusters=self.config.max_clusters,
        )

    def _within_classes(self, x: np.ndarray, targets: np.ndarray) -> np.ndarray:
        z = principal_space(x, axes=self.config.axes)
        most = min(self.config.components, len(np.unique(z, axis=0)) // SMALL_GROUP)
        counts = {min(count, most) for count in COUNTS if most >= 2}
        answers: dict[int, np.ndarray] = {}
        for count in sorted(counts, key=lambda count: (count not in FIRST, count)):
            if set(answers) == set(FIRST) and not any(a.any() for a in answers.values()):
                break
            pieces = fit_domains(
                z, targets, count, seed=self.config.seed, samples=self.config.fit_samples
            )
            answers[count] = join_pieces(
                _without_small(z, pieces),
                lambda a, b: class_gap(x, targets, a, b, axes=self.config.axes).valley,
                max_valley=self.config.max_class_valley,
                min_share=self.config.min_share,
                max_clusters=self.config.max_clusters,
            )
        if not answers:
            return np.zeros(len(z), dtype=np.int64)
        return _confirmed([answers[count] for count in sorted(answers)])


def _confirmed(answers: Sequence[np.ndarray]) -> np.ndarray:
    """The answer with most groups that another one confirms.

    A cut through one domain falls somewhere else in each fit, a border between two does not. Of
    equals the one that most others confirm, then the one with more components, which can follow
    the density more closely. If no two agree, the one that is nearest to all counts.
    """
    order = range(len(answers))
    table = np.array([[adjusted_rand_score(a, b) for b in answers] for a in answers])
    support = (table >= AGREED).sum(axis=1)
    found = [i for i in order if support[i] > 1] or [int(table.sum(axis=1).argmax())]
    return answers[max(found, key=lambda i: (answers[i].max(), support[i], i))]


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
