"""Recall on frequent and rare classes, where a stream has a long tail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rtl_continual.streams import Stream

__all__ = ["GROUPS", "class_groups", "group_names", "recall_by_frequency"]

GROUPS = ("head", "middle", "tail")

_LONG_TAIL = 5
"""A domain has a long tail if its largest class has so many times the images of its smallest."""


def class_groups(stream: Stream) -> np.ndarray | None:
    """Each class's group in each domain, by its training images in that domain.

    The third of the classes with the most images is the head, the third with the fewest the tail
    (rounded down, at least one class each); of equals the earlier class counts as larger.

    Args:
        stream: the data.

    Returns:
        ``[domains, classes]``, indices into :data:`GROUPS`; ``None`` where no domain has a long
        tail, or where there are fewer than three classes.
    """
    domains, classes = len(stream.domains), len(stream.classes)
    counts = np.zeros((domains, classes), dtype=np.int64)
    for experience in stream.experiences:
        np.add.at(counts, (experience.train.domains, experience.train.targets), 1)
    long = counts.max(axis=1) >= _LONG_TAIL * np.maximum(counts.min(axis=1), 1)
    if classes < 3 or not long.any():
        return None
    order = np.argsort(-counts, axis=1, kind="stable")
    third = max(1, classes // 3)
    groups = np.ones((domains, classes), dtype=np.int64)
    np.put_along_axis(groups, order[:, :third], 0, axis=1)
    np.put_along_axis(groups, order[:, classes - third :], 2, axis=1)
    return groups


def group_names(stream: Stream, groups: np.ndarray) -> dict[str, dict[str, list[str]]]:
    """Names of the classes in each group, by domain."""
    return {
        domain: {
            name: [c for c, g in zip(stream.classes, row, strict=True) if g == index]
            for index, name in enumerate(GROUPS)
        }
        for domain, row in zip(stream.domains, groups.tolist(), strict=True)
    }


def recall_by_frequency(recalls: Mapping[str, np.ndarray], groups: np.ndarray) -> dict[str, Any]:
    """Mean recall of each group, by domain and as the mean over domains.

    Args:
        recalls: of each class by domain, ``nan`` for a class without images.
        groups: of :func:`class_groups`, rows in the order of ``recalls``.
    """
    by_domain: dict[str, dict[str, float | None]] = {}
    for (domain, recall), row in zip(recalls.items(), groups, strict=True):
        parts = {name: recall[row == index] for index, name in enumerate(GROUPS)}
        by_domain[domain] = {
            name: float(np.nanmean(part)) if np.isfinite(part).any() else None
            for name, part in parts.items()
        }
    means = {}
    for name in GROUPS:
        known = [v for v in (values[name] for values in by_domain.values()) if v is not None]
        means[name] = float(np.mean(known)) if known else None
    return {"recall_by_frequency": means, "recall_by_frequency_by_domain": by_domain}
