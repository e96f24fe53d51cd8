"""How many images of each class are used, and in which experience each one arrives."""

from __future__ import annotations

import numpy as np

__all__ = ["arrival_times", "class_weights", "take_counts"]


def class_weights(classes: int, imbalance: float, shift: int) -> np.ndarray:
    """A long-tailed profile: weights fall exponentially from 1 to ``1 / imbalance``.

    The profile of Cui et al. (2019), "Class-Balanced Loss Based on Effective Number of Samples".

    Args:
        classes: number of classes.
        imbalance: ratio of the largest to the smallest class.
        shift: which class is the largest one.

    Returns:
        ``float64 [classes]``.
    """
    place = np.arange(classes) / max(classes - 1, 1)
    return np.roll(imbalance**-place, shift)


def take_counts(available: np.ndarray, weights: np.ndarray, cap: int | None) -> np.ndarray:
    """How many images to take of each class.

    Args:
        available: images there are, per class.
        weights: wanted proportions, largest 1; all ones with no cap takes everything.
        cap: at most this many images in total.

    Returns:
        ``int64 [classes]``, at least 1 for each class, in proportion to ``weights`` up to rounding
        and what is available.
    """
    if cap is None and np.all(weights == 1):
        return np.asarray(available, dtype=np.int64)
    level = float((available / weights).min())
    if cap is not None:
        level = min(level, cap / float(weights.sum()))
    exact = np.minimum(level * weights, available)
    counts = np.array(np.maximum(np.floor(exact + 1e-9), 1), dtype=np.int64)
    if cap is not None:
        # Rounding down leaves a few places; the largest remainders get them.
        for target in np.argsort(counts - exact, kind="stable"):
            if counts.sum() < min(cap, round(float(exact.sum()))):
                counts[target] += counts[target] < available[target]
        # Rounding rare classes up to one image may take too many.
        while counts.sum() > cap:
            counts[counts.argmax()] -= 1
    return counts


def arrival_times(
    count: int, experience: int, experiences: int, blur: float, rng: np.random.Generator
) -> np.ndarray:
    """When each image of one domain arrives; the whole part is its experience.

    Args:
        count: images of the domain.
        experience: the experience the domain belongs to.
        experiences: how many there are.
        blur: every arrival is moved by at most this much, so two neighbours fade into each other
            over this fraction of an experience on each side of their boundary.
        rng: where the order comes from.

    Returns:
        ``float64 [count]`` in ``0..experiences``.
    """
    # Evenly spaced in a random order, so that a short part keeps its share of the boundary.
    times = experience + rng.permutation((np.arange(count) + 0.5) / max(count, 1))
    if blur > 0:
        times = times + rng.uniform(-blur, blur, count)
    return np.asarray(np.clip(times, 0.0, np.nextafter(experiences, 0)))
