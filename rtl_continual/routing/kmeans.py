"""The k-means router: the ticket with the nearest of a few centroids, as S-Prompts does."""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, Field

from rtl_continual.routing._centroids import CentroidConfig, CentroidRouter
from rtl_continual.routing._mixture import FeatureMixture

__all__ = ["KMeansRouter", "KMeansRouterConfig"]


class KMeansRouterConfig(CentroidConfig):
    """Options of the k-means router."""

    name: Literal["kmeans"] = "kmeans"
    centroids: int = Field(5, ge=1, description="of each ticket")
    samples: int = Field(
        1024, ge=16, description="drawn from a ticket's mixture where no real ones are at hand"
    )
    seed: int = Field(0, ge=0, description="of the samples and of the first centroids")


class KMeansRouter(CentroidRouter):
    """Nearest of several centroids per ticket (S-Prompts; Wang et al., 2022).

    S-Prompts takes five centroids of real features and Euclidean distances. Here each feature is
    in units of its deviation around the centroids, and where no samples are at hand they are drawn
    from the ticket's mixture.

    Args:
        config: options.

    Example:
        >>> import torch
        >>> from rtl_continual.routing import FeatureMixture
        >>> left, right = torch.randn(100, 4) - 5, torch.randn(100, 4) + 5
        >>> router = KMeansRouter()
        >>> router.fit([FeatureMixture.fit(left), FeatureMixture.fit(right)])
        >>> router.route(torch.tensor([[5.0] * 4, [-5.0] * 4])).ticket_ids.flatten().tolist()
        [1, 0]
    """

    name: ClassVar[str] = "kmeans"
    config_class: ClassVar[type[BaseModel]] = KMeansRouterConfig
    metric_kind: ClassVar[Literal["full", "diagonal"]] = "diagonal"
    config: KMeansRouterConfig

    def describe(
        self, ticket: int, statistics: FeatureMixture, samples: torch.Tensor | None, *, full: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        wanted, seed = self.config.centroids, self.config.seed
        if samples is None or not len(samples):
            generator = torch.Generator().manual_seed(seed + 7919 * ticket)
            x = statistics.sample(self.config.samples, generator)
        else:
            x = samples.detach().cpu().double()
        z = (x - statistics.center) / statistics.scale
        # Imported where it is needed: whoever opens a bank to predict fits nothing.
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        model = KMeans(min(wanted, len(z)), n_init=1, random_state=seed)
        with warnings.catch_warnings():
            # Fewer distinct samples than centroids: some centroids are the same, which is right.
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = torch.from_numpy(model.fit_predict(z.numpy())).long()
        found = torch.from_numpy(model.cluster_centers_)
        centroids = statistics.center + statistics.scale * found
        around = x - centroids[labels]
        covariance = around.T @ around / len(x) if full else None
        return centroids[torch.arange(wanted) % len(centroids)], covariance
