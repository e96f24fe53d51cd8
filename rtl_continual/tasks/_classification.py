"""Classification: a linear head, cross-entropy, and balanced accuracy."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional as F

from rtl_continual.errors import DataError
from rtl_continual.tasks._task import Task

__all__ = ["Classification", "ClassificationConfig"]


class ClassificationConfig(BaseModel):
    """Options of classification."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["classification"] = "classification"
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each label that is spread over all classes"
    )


class Classification(Task):
    """One label out of ``num_outputs`` for each image.

    Args:
        num_outputs: number of classes.
        classes: their names in the order of the labels, where known.
        config: options.

    Raises:
        DataError: if the names are not as many as the classes, or not all different.

    Example:
        >>> Classification(2, ["cat", "dog"]).classes
        ('cat', 'dog')
    """

    name: ClassVar[str] = "classification"
    config_class: ClassVar[type[BaseModel]] = ClassificationConfig

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
        smoothing = self.config.label_smoothing
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def decide(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted labels ``[batch]``."""
        return outputs.argmax(dim=1)
