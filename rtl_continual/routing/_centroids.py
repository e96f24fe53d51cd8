"""What routers that compare inputs with centroids have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field

from rtl_continual.errors import BankError
from rtl_continual.routing._metric import WithinMetric
from rtl_continual.routing._mixture import FeatureMixture
from rtl_continual.routing._router import Router, RouterConfig, Routing
from rtl_continual.routing._rows import Rows

__all__ = ["CentroidConfig", "CentroidRouter", "familiarity"]

Array = TypeVar("Array", torch.Tensor, np.ndarray)

_VALUES_AT_ONCE = 2**24
"""Distances held in memory at once; larger batches are worked on in parts."""


class CentroidConfig(RouterConfig):
    """Options of routers that measure distances."""

    novelty: float | None = Field(
        10.0,
        gt=0,
        description="the confidence fades for inputs further outside the spread of the chosen "
        "ticket than so many deviations; null: it only says how clear the choice among the "
        "tickets is",
    )
    ridge: float = Field(1e-3, gt=0, description="added to the variance of every (scaled) feature")


class CentroidRouter(Router):
    """Each ticket has one or more centroids; an input goes to the ticket of the nearest one.

    Probabilities are those of Gaussians of the same spread around the centroids.
    """

    config: CentroidConfig
    metric_kind: ClassVar[Literal["full", "diagonal"]] = "full"
    settled: ClassVar[int] = 1024

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._reset()

    def _reset(self) -> None:
        self._metric = WithinMetric(
            self.metric_kind, ridge=self.config.ridge, settled=self._settled()
        )
        self._centroids: Rows | None = None
        self._points: Rows | None = None
        self._norms: Rows | None = None
        self._moved: tuple[torch.Tensor, torch.Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Copies share the rows; what can be made from them again is not copied.
        return {**self.__dict__, "_moved": None}

    def _settled(self) -> int:
        """Tickets after which the metric stays as it is."""
        return self.settled

    @abstractmethod
    def describe(
        self, ticket: int, statistics: FeatureMixture, samples: torch.Tensor | None, *, full: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A ticket's centroids ``[centroids, features]`` and the covariance around them.

        The covariance is ``None`` unless ``full``.
        """

    @property
    def num_tickets(self) -> int:
        known = self._centroids if self._points is None else self._points
        return 0 if known is None else len(known)

    def fit(
        self, statistics: Sequence[FeatureMixture], samples: Sequence[torch.Tensor] | None = None
    ) -> None:
        self._reset()
        basis = self._metric.basis(len(statistics))
        for ticket in range(len(statistics)):
            self._take(
                statistics[ticket],
                None if samples is None else samples[ticket],
                full=ticket < self._metric.settled,
            )
            if ticket + 1 == basis:
                self._renew()
        self._fitted()

    def add(self, statistics: FeatureMixture, samples: torch.Tensor | None = None) -> None:
        self._take(statistics, samples, full=self._metric.wants_more)
        if self._metric.is_due(self.num_tickets):
            self._renew()
            self._fitted()
        else:
            self._added()

    def _take(
        self, statistics: FeatureMixture, samples: torch.Tensor | None, *, full: bool
    ) -> None:
        centroids, covariance = self.describe(self.num_tickets, statistics, samples, full=full)
        centroids = centroids.float()
        if full:
            assert covariance is not None
            if self._centroids is None:
                self._centroids = Rows(centroids[None])
            else:
                self._centroids.append(centroids)
            self._metric.see(covariance)
        if self._points is not None and self._norms is not None:
            point = self._metric.apply(centroids)
            self._points.append(point)
            self._norms.append(point.square().sum(dim=1))

    def _renew(self) -> None:
        assert self._centroids is not None
        centroids = self._centroids.values
        self._metric.refresh(centroids.flatten(0, 1))
        self._place(self._metric.apply(centroids.flatten(0, 1)).view(*centroids.shape))

    def _place(self, points: torch.Tensor) -> None:
        self._points, self._norms = Rows(points), Rows(points.square().sum(dim=2))

    def _fitted(self) -> None:
        """Called when all points are new."""
        self._moved = None

    def _added(self) -> None:
        """Called when the last ticket's points are new."""
        self._moved = None

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Points ``[tickets * centroids, axes]`` and squared norms; kept until one is added."""
        if self._moved is None or self._moved[0].device != device:
            assert self._points is not None
            assert self._norms is not None
            points, norms = self._points.values.flatten(0, 1), self._norms.values.flatten()
            self._moved = points.to(device), norms.to(device)
        return self._moved

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """Squared distance of each input to each ticket's nearest centroid, ``[batch, tickets]``.

        In units of the metric; one matrix product.
        """
        return self._exact(self._metric.apply(features.detach()))

    def _exact(self, y: torch.Tensor) -> torch.Tensor:
        points, norms = self._on(y.device)
        product = torch.addmm(norms, y, points.T, alpha=-2)
        each = len(points) // self.num_tickets
        nearest = product if each == 1 else product.view(len(y), self.num_tickets, each).amin(dim=2)
        return nearest.add_(y.square().sum(dim=1, keepdim=True)).clamp_min_(0)

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        if self._points is None:
            raise BankError("the router knows no ticket yet")
        y = self._metric.apply(features.detach())
        tickets, each, _ = self._points.values.shape
        rows = max(1, _VALUES_AT_ONCE // (tickets * each))
        if len(y) <= rows:
            return self._route(y, budget)
        parts = [self._route(part, budget) for part in y.split(rows)]
        return Routing(*map(torch.cat, zip(*parts, strict=True)))

    def _route(self, y: torch.Tensor, budget: int | None) -> Routing:
        distances = self._exact(y)
        probabilities = (distances * (-0.5 / self._metric.temperature)).softmax(dim=1)
        familiar = self._familiarity(distances.amin(dim=1))
        return self.choose(probabilities, familiarity=familiar, budget=budget)

    def _familiarity(self, nearest: Array) -> Array | None:
        """Of inputs at these squared distances from their tickets, ``[batch]``."""
        if self.config.novelty is None:
            return None
        # A squared distance over d degrees of freedom: its root is nearly normal.
        mean, d = self._metric.dimension, self._metric.dimension / self._metric.temperature
        return familiarity(((nearest / mean) ** 0.5 - 1) * (2 * d) ** 0.5, self.config.novelty)

    def flops(self) -> int:
        if self._points is None:
            return 0
        tickets, each, axes = self._points.values.shape
        return self._metric.flops() + 2 * axes + 2 * tickets * each * (axes + 1) + 3 * tickets

    def state_dict(self) -> dict[str, torch.Tensor]:
        if self._points is None:
            return {}
        state = {f"metric.{name}": t for name, t in self._metric.state_dict().items()}
        # Raw centroids are needed to take the metric anew; once it has settled, points are enough.
        if self._metric.wants_more and self._centroids is not None:
            return state | {"centroids": self._centroids.values}
        return state | {"points": self._points.values}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._reset()
        if not state:
            return
        self._metric.load_state_dict(
            {n.removeprefix("metric."): t for n, t in state.items() if n.startswith("metric.")}
        )
        if "centroids" in state:
            self._centroids = Rows(state["centroids"])
            flat = state["centroids"].flatten(0, 1)
            self._place(self._metric.apply(flat).view(*state["centroids"].shape))
        else:
            self._place(state["points"])
        self._fitted()


def familiarity(deviations: Array, novelty: float) -> Array:
    """1 up to ``novelty`` deviations, then falling to 1/2 one quarter further and to 0.

    Args:
        deviations: how far an input lies outside a ticket's spread, ``[batch]``.
        novelty: how far is too far.
    """
    fading: Array = 2.0 ** (4 - deviations * (4 / novelty)).clip(max=0)
    return fading
