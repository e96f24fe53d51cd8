"""Tasks: what a head, a loss and a metric are."""

from rtl_continual.tasks._classification import Classification
from rtl_continual.tasks._metrics import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    recall_by_class,
)

__all__ = [
    "Classification",
    "accuracy",
    "balanced_accuracy",
    "confusion_matrix",
    "recall_by_class",
]
