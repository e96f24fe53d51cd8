"""The prototype router: the ticket whose mean is nearest."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import BaseModel

from rtl_continual.routing._centroids import CentroidConfig, CentroidRouter
from rtl_continual.routing._mixture import FeatureMixture

__all__ = ["PrototypeRouter", "PrototypeRouterConfig"]


class PrototypeRouterConfig(CentroidConfig):
    """Options of the prototype router."""

    name: Literal["prototype"] = "prototype"


class PrototypeRouter(CentroidRouter):
    """Nearest mean, each feature in units of its deviation within tickets.

    Args:
        config: options.

    Example:
        >>> import torch
        >>> from rtl_continual.routing import FeatureMixture
        >>> left, right = torch.randn(100, 4) - 5, torch.randn(100, 4) + 5
        >>> router = PrototypeRouter()
        >>> router.fit([FeatureMixture.fit(left), FeatureMixture.fit(right)])
        >>> router.route(torch.tensor([[5.0] * 4, [-5.0] * 4])).ticket_ids.flatten().tolist()
        [1, 0]
    """

    name: ClassVar[str] = "prototype"
    config_class: ClassVar[type[BaseModel]] = PrototypeRouterConfig
    metric_kind: ClassVar[Literal["full", "diagonal"]] = "diagonal"

    def describe(
        self, ticket: int, statistics: FeatureMixture, samples: torch.Tensor | None, *, full: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return statistics.mean()[None], statistics.covariance() if full else None
