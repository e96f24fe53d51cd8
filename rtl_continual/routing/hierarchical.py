"""The hierarchical router: coarse to fine over a tree of tickets, for thousands of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field

from rtl_continual.errors import BankError
from rtl_continual.routing._centroids import CentroidConfig, CentroidRouter
from rtl_continual.routing._mixture import FeatureMixture
from rtl_continual.routing._router import Routing
from rtl_continual.routing._tree import PointTree

__all__ = ["HierarchicalRouter", "HierarchicalRouterConfig"]


_CPU = torch.device("cpu")

_EXACT_VALUES = 2**19
"""Tickets times features up to which one matrix product is faster than the tree."""


class HierarchicalRouterConfig(CentroidConfig):
    """Options of the hierarchical router."""

    name: Literal["hierarchical"] = "hierarchical"
    beam: int | None = Field(
        None,
        ge=1,
        description="branches followed on each level: more cost more and miss less; null takes "
        "the number of tickets to the power of 0.3 (16 for 10,000, 32 for 100,000)",
    )
    candidates: int = Field(
        8, ge=2, description="tickets that the tree proposes to the exact comparison"
    )
    branching: int = Field(32, ge=8, description="children of a node at most")
    coarse_share: float = Field(
        0.95,
        gt=0,
        le=1,
        description="the tree looks at the leading axes that hold so much of the tickets' spread; "
        "the exact comparison looks at all",
    )
    exact_below: int | None = Field(
        None,
        ge=0,
        description="with fewer tickets all are compared, by one matrix product; null takes "
        "524,288 divided by the number of features, at least 1,024",
    )


class HierarchicalRouter(CentroidRouter):
    """Nearest mean by Mahalanobis distance, found coarse to fine.

    Below ``exact_below`` tickets all are compared: that is faster there (``docs/routers.md`` has
    the crossover). From there on a balanced tree over the tickets'
    means proposes candidates, and these are compared exactly. The tree grows like a B-tree: a new
    ticket joins the nearest leaf, and a node that overflows is halved, which touches one path.
    The metric has settled by then, so that nothing else changes.

    Search runs on the processor, wherever the features are.

    Args:
        config: options.

    Example:
        >>> import torch
        >>> from rtl_continual.routing import FeatureMixture
        >>> left, right = torch.randn(100, 4) - 5, torch.randn(100, 4) + 5
        >>> router = HierarchicalRouter()
        >>> router.fit([FeatureMixture.fit(left), FeatureMixture.fit(right)])
        >>> router.route(torch.tensor([[5.0] * 4, [-5.0] * 4])).ticket_ids.flatten().tolist()
        [1, 0]
    """

    name: ClassVar[str] = "hierarchical"
    config_class: ClassVar[type[BaseModel]] = HierarchicalRouterConfig
    config: HierarchicalRouterConfig

    def _reset(self) -> None:
        super()._reset()
        self._tree: PointTree | None = None
        self._beam = 0

    def _settled(self) -> int:
        # Once there is a tree, a new metric would mean a new tree.
        given = self.config.exact_below
        most = self.settled if given is None else max(64, min(self.settled, given))
        return 1 << (most.bit_length() - 1)

    @property
    def _needs_tree(self) -> bool:
        given = self.config.exact_below
        if given is None:
            given = max(self.settled, _EXACT_VALUES // max(1, len(self._metric.offset)))
        return self.num_tickets >= max(2, given)

    def describe(
        self, ticket: int, statistics: FeatureMixture, samples: torch.Tensor | None, *, full: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return statistics.mean()[None], statistics.covariance() if full else None

    def _fitted(self) -> None:
        super()._fitted()
        self._tree = None
        if self._needs_tree:
            self._plant()
        self._count_beam()

    def _added(self) -> None:
        super()._added()
        assert self._points is not None
        if self._tree is not None:
            self._tree.add(self._points.values[-1, 0, : self._tree.axes].numpy())
        elif self._needs_tree:
            self._plant()
        self._count_beam()

    def _count_beam(self) -> None:
        given = self.config.beam
        self._beam = max(4, round(self.num_tickets**0.3)) if given is None else given

    def _plant(self) -> None:
        assert self._points is not None
        points = self._points.values[:, 0].numpy()
        self._tree = PointTree.build(points[:, : self._coarse_axes(points)], self.config.branching)

    def _coarse_axes(self, points: np.ndarray) -> int:
        spread = points.var(axis=0, dtype=np.float64)
        share = np.cumsum(spread) / max(float(spread.sum()), 1e-12)
        return min(int(np.searchsorted(share, self.config.coarse_share)) + 1, points.shape[1])

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        if self._tree is None:
            return super().route(features, budget=budget)
        # On few candidates numpy's operations take half the time of torch's.
        y = self._metric.apply(features.detach().cpu()).numpy()
        found = self._tree.search(y[:, : self._tree.axes], self._beam, self.config.candidates)
        points, norms = self._on(_CPU)
        distances = (points.numpy().take(found, axis=0) @ y[:, :, None])[:, :, 0]
        distances *= -2
        distances += norms.numpy().take(found)
        distances += (y * y).sum(axis=1, keepdims=True)
        np.maximum(distances, 0, out=distances)
        distances[found < 0] = np.inf
        nearest = distances.min(axis=1, keepdims=True)
        likely = np.exp((nearest - distances) * (0.5 / self._metric.temperature))
        likely /= likely.sum(axis=1, keepdims=True)
        familiar = self._familiarity(nearest[:, 0])
        answer = self.choose(
            torch.from_numpy(likely),
            ids=torch.from_numpy(found),
            familiarity=None if familiar is None else torch.from_numpy(familiar),
            budget=budget,
        )
        device = features.device
        return answer if device == _CPU else Routing(*(part.to(device) for part in answer))

    def flops(self) -> int:
        if self._tree is None:
            return super().flops()
        axes, candidates = len(self._metric.offset), self.config.candidates
        return (
            self._metric.flops()
            + self._tree.flops(self._beam)
            + 2 * axes
            + candidates * (2 * axes + 6)
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        state = super().state_dict()
        if self._tree is not None:
            state |= {f"tree.{name}": tensor for name, tensor in self._tree.state_dict().items()}
            state["tree.axes"] = torch.tensor(self._tree.axes)
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        exact = {name: tensor for name, tensor in state.items() if not name.startswith("tree.")}
        super().load_state_dict(exact)
        self._tree = None
        if "tree.axes" in state:
            if self._points is None:
                raise BankError("a tree without tickets")
            levels = {
                name.removeprefix("tree."): tensor
                for name, tensor in state.items()
                if name.startswith("tree.level")
            }
            points = self._points.values[:, 0, : int(state["tree.axes"])].numpy()
            self._tree = PointTree.load(levels, points)
