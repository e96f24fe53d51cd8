"""Domains that come back, class mixes that change, and bursts of broken images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rtl_continual.streams._stream import ArraySet, Experience

__all__ = ["arrange_visits", "with_burst"]

TAIL = 50.0
"""The rarest class of a long-tailed experience is this much rarer than the most frequent one."""


def arrange_visits(
    homes: Sequence[Experience],
    visits: Sequence[int],
    *,
    skewed: int,
    skewed_images: int,
    rng: np.random.Generator,
) -> list[Experience]:
    """Experiences in their order of arrival.

    A domain's images are shared out over its visits, so no image is learned from twice. With
    ``skewed``, half of each visit's images are kept for the experiences after it that have another
    class mix: in turn a long tail, and one to three classes alone.

    Args:
        homes: one experience per domain with all of its images.
        visits: indices of ``homes`` in the order of arrival.
        skewed: how many experiences with another class mix follow each visit.
        skewed_images: images in each of those, at most.
        rng: of what those hold.
    """
    arrived = []
    for place, home in enumerate(visits):
        whole = homes[home]
        before, total = list(visits[:place]).count(home), list(visits).count(home)
        train = whole.train.subset(np.arange(before, len(whole.train), total))
        name = whole.name if before == 0 else f"{whole.name} again"
        name = name if before < 2 else f"{name} {before}"
        kept = len(train) // 2 if skewed else len(train)
        arrived.append(Experience(name, train.subset(np.arange(kept)), whole.validation))
        pool = np.arange(kept, len(train))
        for number in range(skewed):
            weights = _other_mix(train.targets[pool], number, rng)
            count = min(skewed_images, int((weights > 0).sum()))
            rows = rng.choice(pool, count, replace=False, p=weights)
            arrived.append(
                Experience(f"{name}, class mix {number + 1}", train.subset(rows), whole.validation)
            )
    return arrived


def _other_mix(targets: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """How likely each image is drawn: a long tail, or one to three classes alone."""
    order = rng.permutation(np.unique(targets))
    if number % 2:
        weights = np.isin(targets, order[: 1 + number // 2 % 3]).astype(float)
    else:
        share = TAIL ** (-np.argsort(order) / max(len(order) - 1, 1))
        weights = share[np.searchsorted(np.sort(order), targets)]
    return np.asarray(weights / weights.sum())


def with_burst(data: ArraySet, count: int, rng: np.random.Generator) -> ArraySet:
    """A set with ``count`` broken images in a row in its middle.

    In turn noise, one flat colour, and blocks of 8 by 8 pixels. Their labels are those of the
    images that they follow, and so are their domains: a camera broke for a moment.
    """
    middle, (channels, height, width) = len(data) // 2, data.images.shape[1:]
    noise = rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    noise[1::3] = noise[1::3, :, :1, :1]
    coarse = noise[2::3, :, ::8, ::8].repeat(8, axis=2).repeat(8, axis=3)
    noise[2::3] = coarse[:, :, :height, :width]
    rows = np.arange(middle - count, middle) % len(data)
    parts = (slice(None, middle), slice(middle, None))
    return ArraySet(
        torch.cat([data.images[parts[0]], torch.from_numpy(noise), data.images[parts[1]]]),
        np.concatenate([data.targets[parts[0]], data.targets[rows], data.targets[parts[1]]]),
        np.concatenate([data.domains[parts[0]], data.domains[rows], data.domains[parts[1]]]),
    )
