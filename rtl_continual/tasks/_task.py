"""The contract of every task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import nn

from rtl_continual.errors import DataError

__all__ = ["Task"]


class Task(ABC):
    """What a ticket's head, its loss and its decision are.

    Args:
        num_outputs: length of an output.
        classes: names of the labels in their order, where known.
        config: options, an instance of ``config_class``; default: all at their defaults.

    Raises:
        DataError: if the names are not as many as the outputs, or not all different.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[BaseModel]]
    config: Any

    def __init__(
        self, num_outputs: int, classes: Sequence[str] | None = None, config: Any = None
    ) -> None:
        self.num_outputs = num_outputs
        self.config = config if config is not None else self.config_class()
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

    @abstractmethod
    def build_head(self, feature_dim: int) -> nn.Module:
        """A fresh head over features ``[batch, feature_dim]``; it gives ``[batch, outputs]``."""

    @abstractmethod
    def check_targets(self, targets: torch.Tensor) -> None:
        """Raise :class:`DataError` unless every label is one of the task's."""

    @abstractmethod
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What training makes small: a number for outputs ``[batch, outputs]`` and labels."""

    @abstractmethod
    def decide(self, outputs: torch.Tensor) -> torch.Tensor:
        """Decided labels ``int64 [batch]``."""
