"""Groups made from class labels, or from what classes look like."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from sklearn.cluster import AgglomerativeClustering

from rtl_continual.discovery._clusterer import Clusterer
from rtl_continual.discovery._space import principal_space
from rtl_continual.errors import DataError

__all__ = ["ClassesClusterer", "ClassesConfig"]


class ClassesConfig(BaseModel):
    """Options of the clusterer ``classes``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["classes"] = "classes"
    groups: int | None = Field(
        None,
        ge=1,
        description="join classes with near mean features into so many groups; "
        "none makes a group of each class",
    )


class ClassesClusterer(Clusterer):
    """A group for each class, or for each set of classes that look alike.

    Classes are joined by Ward's linkage of their mean router features.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [5.0, 5.0], [5.1, 5.0]])
        >>> ClassesClusterer(ClassesConfig(groups=2)).cluster(x, np.array([0, 1, 2])).tolist()
        [1, 0, 0]
    """

    name: ClassVar[str] = "classes"
    config_class: ClassVar[type[BaseModel]] = ClassesConfig
    by_features: ClassVar[bool] = False
    config: ClassesConfig

    def _labels(self, x: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        if targets is None:
            raise DataError("classes: this clusterer needs class labels, and got none")
        values, rows = np.unique(targets, return_inverse=True)
        groups = self.config.groups
        if groups is None or groups == 1:
            return rows if groups is None else np.zeros_like(rows)
        if groups > len(values):
            raise DataError(
                f"classes: {groups} groups need as many classes, got {len(values)}; "
                "lower discovery.clusterer.groups"
            )
        z = principal_space(x)
        means = np.stack([z[rows == i].mean(axis=0) for i in range(len(values))])
        if groups == len(values):
            return rows
        return np.asarray(AgglomerativeClustering(groups).fit(means).labels_)[rows]
