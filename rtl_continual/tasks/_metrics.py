"""Metrics of classification from a confusion matrix."""

from __future__ import annotations

import numpy as np

__all__ = ["accuracy", "balanced_accuracy", "confusion_matrix", "recall_by_class"]


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts ``[classes, classes + 1]``: row = true class, column = predicted class.

    The last column counts abstentions and other labels outside ``0..classes-1``: they are wrong.
    """
    column = np.where((predictions >= 0) & (predictions < classes), predictions, classes)
    flat = np.bincount(targets * (classes + 1) + column, minlength=classes * (classes + 1))
    return flat.reshape(classes, classes + 1)


def accuracy(confusion: np.ndarray) -> float:
    """Fraction of right predictions; ``nan`` without samples."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


def recall_by_class(confusion: np.ndarray) -> np.ndarray:
    """Recall of each class ``[classes]``; ``nan`` where a class has no sample."""
    support = confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.diagonal(confusion) / np.where(support > 0, support, np.nan)


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Mean recall over the classes that have samples (Brodersen et al., 2010)."""
    recall = recall_by_class(confusion)
    return float(np.nanmean(recall)) if np.isfinite(recall).any() else float("nan")
