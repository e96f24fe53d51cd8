"""k-means with a number of groups that the user knows."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from sklearn.cluster import KMeans

from rtl_continual.discovery._clusterer import Clusterer
from rtl_continual.discovery._space import principal_space
from rtl_continual.errors import DataError

__all__ = ["KMeansClusterer", "KMeansConfig"]


class KMeansConfig(BaseModel):
    """Options of the clusterer ``kmeans``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["kmeans"] = "kmeans"
    clusters: int = Field(2, ge=1, description="how many groups there are")
    seed: int = Field(0, ge=0, description="of the initial centres")


class KMeansClusterer(Clusterer):
    """k-means (Lloyd, 1982) with a fixed number of groups.

    Example:
        >>> import torch
        >>> x = torch.cat([torch.zeros(3, 2), torch.ones(2, 2)]) + 0.01 * torch.rand(5, 2)
        >>> KMeansClusterer().cluster(x).tolist()
        [0, 0, 0, 1, 1]
    """

    name: ClassVar[str] = "kmeans"
    config_class: ClassVar[type[BaseModel]] = KMeansConfig
    config: KMeansConfig

    def _labels(self, x: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        different = len(np.unique(x, axis=0))
        if different < self.config.clusters:
            raise DataError(
                f"kmeans: {self.config.clusters} clusters need as many different samples, "
                f"got {different}; lower discovery.clusterer.clusters"
            )
        model = KMeans(self.config.clusters, n_init=4, random_state=self.config.seed)
        return np.asarray(model.fit(principal_space(x)).labels_)
