"""The contract of every clusterer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel

from rtl_continual.discovery._features import as_features
from rtl_continual.errors import DataError

__all__ = ["Clusterer"]


class Clusterer(ABC):
    """Groups samples by their router features.

    Args:
        config: options, an instance of ``config_class``.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[BaseModel]]
    by_features: ClassVar[bool] = True
    """Whether groups lie apart in feature space, so that likelihood may correct their borders."""

    def __init__(self, config: Any = None) -> None:
        self.config = config if config is not None else self.config_class()

    def cluster(self, features: torch.Tensor, targets: np.ndarray | None = None) -> np.ndarray:
        """Put every sample into a group.

        Args:
            features: router features ``[samples, features]``.
            targets: class labels ``[samples]``, for clusterers that group by class.

        Returns:
            Group numbers ``int64 [samples]``, ``0 .. groups - 1``, larger groups first.

        Raises:
            DataError: without samples, if a sample is not finite, or if the clusterer cannot make
                the groups that it was asked for.
        """
        x = as_features(features).numpy()
        if targets is not None:
            targets = np.asarray(targets)
            if targets.shape != (len(x),):
                raise DataError(f"{len(x)} samples need {len(x)} labels, got {list(targets.shape)}")
        labels = self._labels(x, targets)
        values, counts = np.unique(labels, return_counts=True)
        rank = np.empty(len(values), dtype=np.int64)
        rank[np.argsort(-counts, kind="stable")] = np.arange(len(values))
        return rank[np.searchsorted(values, labels)]

    @abstractmethod
    def _labels(self, x: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """Any group numbers ``[samples]`` for checked features."""
