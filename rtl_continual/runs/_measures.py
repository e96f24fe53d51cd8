"""What a run measures, from the confusion matrices of every stage and domain.

Notation: ``a[i, j]`` is the accuracy on domain ``j``'s test set after experience ``i``; ``T`` is
the last experience; ``s(j)`` is the experience that holds most of domain ``j``'s training images
(its own one, where experiences are domains). A domain is *seen* from ``s(j)`` on; one that nothing
is learned from has ``s(j) = T + 1``, and is never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rtl_continual.runs._frequency import recall_by_frequency
from rtl_continual.streams import Stream
from rtl_continual.tasks import accuracy, balanced_accuracy, recall_by_class

__all__ = [
    "average_accuracy",
    "backward_transfer",
    "forgetting",
    "home_experiences",
    "method_measures",
    "pooled_average_accuracy",
]


def home_experiences(stream: Stream) -> np.ndarray:
    """``s(j)`` for each domain ``[domains]``.

    The earliest experience where several hold as much, and one past the last where none has any.
    """
    counts = np.stack(
        [np.bincount(e.train.domains, minlength=len(stream.domains)) for e in stream.experiences]
    )
    return np.where(counts.any(axis=0), counts.argmax(axis=0), len(counts))


def average_accuracy(matrix: np.ndarray, homes: np.ndarray) -> float | None:
    """Mean over stages of the mean over the domains seen so far (A-bar; Zhou et al., 2025, DUCT).

    Args:
        matrix: ``a``, ``[experiences, domains]``.
        homes: ``s``, ``[domains]``.
    """
    rows = [
        row[homes <= stage].mean() for stage, row in enumerate(matrix) if (homes <= stage).any()
    ]
    return _number(np.mean(rows)) if rows else None


def pooled_average_accuracy(
    confusions: Sequence[Sequence[np.ndarray]], homes: np.ndarray
) -> float | None:
    """Mean over stages of the accuracy over all test images of the domains seen so far.

    As :func:`average_accuracy`, but a stage counts images, so large domains weigh more.

    Args:
        confusions: per stage and domain, ``[classes, classes + 1]`` each.
        homes: ``s``, ``[domains]``.
    """
    stages = [
        accuracy(np.sum([c for c, home in zip(row, homes, strict=True) if home <= stage], axis=0))
        for stage, row in enumerate(confusions)
        if (homes <= stage).any()
    ]
    return _number(np.mean(stages)) if stages else None


def forgetting(matrix: np.ndarray, homes: np.ndarray) -> float | None:
    """Mean over earlier domains of the best accuracy so far minus the last one.

    ``mean over j with s(j) < T of max over i < T of a[i, j] - a[T, j]`` (Chaudhry et al., 2018).
    ``None`` if there is no earlier domain.
    """
    earlier = homes < len(matrix) - 1
    if not earlier.any():
        return None
    return _number((matrix[:-1, earlier].max(axis=0) - matrix[-1, earlier]).mean())


def backward_transfer(matrix: np.ndarray, homes: np.ndarray) -> float | None:
    """Mean over earlier domains of ``a[T, j] - a[s(j), j]`` (Lopez-Paz and Ranzato, 2017).

    ``None`` if there is no earlier domain.
    """
    earlier = np.flatnonzero(homes < len(matrix) - 1)
    if not len(earlier):
        return None
    return _number((matrix[-1, earlier] - matrix[homes[earlier], earlier]).mean())


def method_measures(
    confusions: Sequence[Sequence[np.ndarray]],
    domains: Sequence[str],
    homes: np.ndarray,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """The part of a method's entry in ``results.json`` that all methods have.

    Args:
        confusions: per stage and domain, ``[classes, classes + 1]`` each.
        domains: names of the columns.
        homes: ``s``, ``[domains]``.
        groups: of classes by frequency, ``[domains, classes]``, where the stream has a long tail.
    """
    plain = np.array([[accuracy(c) for c in row] for row in confusions])
    balanced = np.array([[balanced_accuracy(c) for c in row] for row in confusions])
    last = confusions[-1]
    total = np.sum(last, axis=0)
    unlearned = [c for c, home in zip(last, homes, strict=True) if home == len(confusions)]
    recalls = {name: recall_by_class(c) for name, c in zip(domains, last, strict=True)}
    return {
        "accuracy_matrix": _numbers(plain),
        "balanced_accuracy_matrix": _numbers(balanced),
        "final": {
            "accuracy_by_domain": dict(zip(domains, _numbers(plain[-1]), strict=True)),
            "balanced_accuracy_by_domain": dict(zip(domains, _numbers(balanced[-1]), strict=True)),
            "accuracy_sample_weighted": _number(accuracy(total)),
            "accuracy_domain_mean": _number(plain[-1].mean()),
            "balanced_accuracy_domain_mean": _number(balanced[-1].mean()),
            **(
                {"accuracy_unlearned_domains": _number(accuracy(np.sum(unlearned, axis=0)))}
                if unlearned
                else {}
            ),
            "recall_macro_by_domain": {n: _number(np.nanmean(r)) for n, r in recalls.items()},
            "recall_by_class_by_domain": {n: _numbers(r) for n, r in recalls.items()},
            **({} if groups is None else recall_by_frequency(recalls, groups)),
        },
        "average_accuracy": average_accuracy(plain, homes),
        "average_accuracy_sample_weighted": pooled_average_accuracy(confusions, homes),
        "average_balanced_accuracy": average_accuracy(balanced, homes),
        "forgetting": forgetting(plain, homes),
        "balanced_forgetting": forgetting(balanced, homes),
        "backward_transfer": backward_transfer(plain, homes),
        "balanced_backward_transfer": backward_transfer(balanced, homes),
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[Any]:
    if values.ndim > 1:
        return [_numbers(row) for row in values]
    return [_number(value) for value in values]
