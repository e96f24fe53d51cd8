"""Classification: a linear head, cross-entropy, and balanced accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from rtl_continual.errors import DataError

__all__ = ["Classification"]


class Classification:
    """One label out of ``num_outputs`` for each image.

    Args:
        num_outputs: number of classes.
        classes: their names in the order of the labels, where known.

    Raises:
        DataError: if the names are not as many as the classes, or not all different.

    Example:
        >>> Classification(2, ["cat", "dog"]).classes
        ('cat', 'dog')
    """

    name: ClassVar[str] = "classification"

    def __init__(self, num_outputs: int, classes: Sequence[str] | None = None) -> None:
        self.num_outputs = num_outputs
        self.classes = None if classes is None else tuple(classes)
        names = self.classes or ()
        if self.classes is not None and (
            len(names) != num_outputs
            or len(set(names)) != num_outputs
            or not all(isinstance(name, str) and name for name in names)
        ):
            raise DataError(
                f"a task of {num_outputs} classes needs as many different names, got {list(names)}"
            )

    def build_head(self, feature_dim: int) -> nn.Module:
        """A fresh head over features ``[batch, feature_dim]``."""
        return nn.Linear(feature_dim, self.num_outputs)

    def check_targets(self, targets: torch.Tensor) -> None:
        """Raise :class:`DataError` unless every label is one of the classes."""
        wrong = torch.nonzero((targets < 0) | (targets >= self.num_outputs)).flatten()
        if len(wrong):
            first = int(wrong[0])
            raise DataError(
                f"labels must be 0 to {self.num_outputs - 1}, got {int(targets[first])} for sample "
                f"{first}"
            )

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of logits ``[batch, classes]`` and labels ``[batch]``."""
        return F.cross_entropy(outputs, targets)

    def decide(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted labels ``[batch]``."""
        return outputs.argmax(dim=1)
