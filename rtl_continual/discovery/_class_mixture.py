"""A mixture of domains in which every domain has its own place for each class."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

__all__ = ["fit_domains", "fit_newcomer", "without_classes"]

PRIOR_SAMPLES = 5.0
"""A class's place in a domain counts as if so many samples lay where it is on average."""

RIDGE = 1e-2
"""Added to each covariance, on axes that are scaled to the features' deviations."""

ITERATIONS = 25

NEWCOMER_ITERATIONS = 12

GAIN = 5e-3
"""Fitting ends when the mean log-likelihood gains less than this in a step."""


class _Domains(NamedTuple):
    """Log shares ``[domains]``, places ``[domains, classes, axes]``, and what whitens each domain.

    ``whitener`` is ``[domains, axes, axes]``, the inverse of the covariance's Cholesky factor.
    """

    share: np.ndarray
    place: np.ndarray
    whitener: np.ndarray

    def density(self, z: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Log density, up to a constant, ``[samples, domains]``."""
        columns = []
        for share, place, whitener in zip(self.share, self.place, self.whitener, strict=True):
            white = z @ whitener.T - (place @ whitener.T)[classes]
            scale = np.log(np.diag(whitener)).sum()
            columns.append(share + scale - 0.5 * np.einsum("na,na->n", white, white))
        return np.stack(columns, axis=1)


def without_classes(x: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each class's mean moved to the common mean, ``[samples, features]``."""
    values, rows = np.unique(targets, return_inverse=True)
    sums = np.zeros((len(values), x.shape[1]))
    np.add.at(sums, rows, x)
    means = sums / np.bincount(rows)[:, None]
    return np.asarray(x - means[rows] + x.mean(axis=0))


def fit_domains(
    z: np.ndarray, targets: np.ndarray, count: int, *, seed: int, samples: int = 2000
) -> np.ndarray:
    """Fit ``count`` domains by expectation maximisation and say which sample is whose.

    A sample of class ``c`` in domain ``k`` is normal around a place of its own for ``(k, c)`` with
    the domain's covariance, so that a domain is one component however far apart its classes lie.
    A place that few samples speak for is drawn towards the domain's mean plus the class's usual
    offset. Two starts are tried, k-means with and without the classes' means; the likelier wins.

    Args:
        z: ``[samples, axes]``.
        targets: class of each sample, ``int64 [samples]``.
        count: domains.
        seed: of the starts.
        samples: fit on at most so many, evenly spread; the others are only assigned.

    Returns:
        The likeliest domain of each sample, ``int64 [samples]``.
    """
    _, classes = np.unique(targets, return_inverse=True)
    rows = _spread(np.arange(len(z)), samples)
    few, member = z[rows], np.eye(classes.max() + 1)[classes[rows]]
    starts = (without_classes(few, classes[rows]), few / np.sqrt(few.std(axis=0) + 1e-12))
    best, chosen = -np.inf, None
    for start in starts:
        labels = KMeans(count, n_init=1, random_state=seed).fit(start).labels_
        share = np.eye(count)[labels] * 0.9 + 0.1 / count
        likelihood, domains = _maximise(few, member, share)
        if chosen is None or likelihood > best:
            best, chosen = likelihood, domains
    assert chosen is not None
    return np.asarray(chosen.density(z, classes).argmax(axis=1))


def fit_newcomer(
    z: np.ndarray,
    targets: np.ndarray,
    late: np.ndarray,
    *,
    components: int,
    seed: int = 0,
    samples: int = 2000,
) -> np.ndarray:
    """Look for one domain more among some samples, beside those that the others come from.

    The other samples are described by ``components`` domains, as :func:`fit_domains` has them.
    These then stay as they are, and expectation maximisation fits a newcomer to the ``late``
    samples, each of which comes from one of the domains or from the newcomer. Some newcomer is
    always found: whether it lies apart is for the caller to judge.

    Args:
        z: ``[samples, axes]``.
        targets: class of each sample, ``int64 [samples]``.
        late: where the newcomer may occur, ``bool [samples]``.
        components: domains of the other samples, at most as many as there are of those.
        seed: of the start.
        samples: fit on at most so many of either kind, evenly spread.

    Returns:
        Whether a sample is rather the newcomer's, ``bool [samples]``, false where not ``late``.
    """
    _, classes = np.unique(targets, return_inverse=True)
    member = np.eye(classes.max() + 1)
    rows, new = (_spread(np.flatnonzero(where), samples) for where in (~late, late))
    start = without_classes(z[rows], classes[rows])
    with warnings.catch_warnings():
        # Repeated rows give fewer different starting points than components.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(components, n_init=1, random_state=seed).fit(start).labels_
    share = np.eye(components)[labels] * 0.9 + 0.1 / components
    _, others = _maximise(z[rows], member[classes[rows]], share)
    usual = np.logaddexp.reduce(others.density(z[late], classes[late]), axis=1)
    fit_on = np.searchsorted(np.flatnonzero(late), new)
    mine = np.full(len(usual), 0.5)
    for _ in range(NEWCOMER_ITERATIONS):
        newcomer = _estimate(z[new], member[classes[new]], mine[fit_on, None])
        density = newcomer.density(z[late], classes[late])[:, 0]
        odds = usual - density + np.log1p(-min(np.exp(newcomer.share[0]), 0.999))
        mine = 1 / (1 + np.exp(np.clip(odds, -500, 500)))
    found = np.zeros(len(z), dtype=bool)
    found[late] = mine > 0.5
    return found


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of some rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), count)).astype(int)]


def _maximise(z: np.ndarray, member: np.ndarray, share: np.ndarray) -> tuple[float, _Domains]:
    """Mean log-likelihood and the domains, from a start ``share [samples, domains]``."""
    classes, best = member.argmax(axis=1), -np.inf
    for step in range(ITERATIONS):
        domains = _estimate(z, member, share)
        density = domains.density(z, classes)
        peak = density.max(axis=1, keepdims=True)
        share = np.exp(density - peak)
        total = share.sum(axis=1, keepdims=True)
        share /= total
        likelihood = float((peak + np.log(total)).mean())
        if step > 5 and likelihood - best < GAIN:
            break
        best = max(best, likelihood)
    return likelihood, domains


def _estimate(z: np.ndarray, member: np.ndarray, share: np.ndarray) -> _Domains:
    size, counts = share.sum(axis=0) + 1e-9, member.T @ share
    weighted = [share[:, k : k + 1] * z for k in range(share.shape[1])]
    sums = [member.T @ w for w in weighted]
    middle = np.stack([total.sum(axis=0) for total in sums]) / size[:, None]
    usual = member.T @ z - counts @ middle
    usual /= np.maximum(member.sum(axis=0), 1)[:, None]
    places, whiteners = [], []
    for k, weight in enumerate(size):
        count = counts[:, k : k + 1]
        place = (sums[k] + PRIOR_SAMPLES * (middle[k] + usual)) / (count + PRIOR_SAMPLES)
        # The squares around the places, multiplied out, so that no sample meets its place.
        cross = sums[k].T @ place
        squares = weighted[k].T @ z - cross - cross.T + (place * count).T @ place
        factor = np.linalg.cholesky(squares / weight + RIDGE * np.eye(z.shape[1]))
        places.append(place)
        whiteners.append(np.linalg.inv(factor))
    return _Domains(np.log(size / len(z)), np.stack(places), np.stack(whiteners))
