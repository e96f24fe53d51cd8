"""The Mahalanobis router: the ticket whose Gaussians make the input most likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, Field

from rtl_continual.errors import BankError
from rtl_continual.routing._centroids import CentroidConfig, CentroidRouter, familiarity
from rtl_continual.routing._gaussians import MixtureStack
from rtl_continual.routing._mixture import FeatureMixture
from rtl_continual.routing._router import Router, Routing

__all__ = ["MahalanobisRouter", "MahalanobisRouterConfig"]


class MahalanobisRouterConfig(CentroidConfig):
    """Options of the Mahalanobis router."""

    name: Literal["mahalanobis"] = "mahalanobis"
    covariance: Literal["mixture", "ticket", "shared"] = Field(
        "mixture",
        description="mixture: the tickets' whole mixtures; ticket: one Gaussian each, of its own "
        "covariance; shared: one covariance for all, which makes the borders straight",
    )
    samples: int = Field(
        256, ge=16, description="drawn from each mixture to learn how likely its own inputs are"
    )
    seed: int = Field(0, ge=0, description="of those samples")


class MahalanobisRouter(Router):
    """Gaussian likelihood of the router features under each ticket.

    Probabilities are those of equally frequent tickets. With ``novelty`` the confidence also fades
    for inputs that are much less likely than the chosen ticket's own.

    Args:
        config: options.

    Example:
        >>> import torch
        >>> from rtl_continual.routing import FeatureMixture
        >>> left, right = torch.randn(100, 4) - 5, torch.randn(100, 4) + 5
        >>> router = MahalanobisRouter()
        >>> router.fit([FeatureMixture.fit(left), FeatureMixture.fit(right)])
        >>> answer = router.route(torch.tensor([[5.0] * 4, [-5.0] * 4, [90.0] * 4]))
        >>> answer.ticket_ids.flatten().tolist(), bool(answer.confidence[2] < 0.01)
        ([1, 0, 1], True)
    """

    name: ClassVar[str] = "mahalanobis"
    config_class: ClassVar[type[BaseModel]] = MahalanobisRouterConfig
    config: MahalanobisRouterConfig

    def __init__(self, config: MahalanobisRouterConfig | None = None) -> None:
        super().__init__(config)
        self._reset()

    def _reset(self) -> None:
        self._shared = _SharedRouter(self.config) if self.config.covariance == "shared" else None
        self._mixtures: list[FeatureMixture] = []
        self._usual: list[torch.Tensor] = []
        self._stack: MixtureStack | None = None

    @property
    def num_tickets(self) -> int:
        return len(self._mixtures) if self._shared is None else self._shared.num_tickets

    def fit(
        self, statistics: Sequence[FeatureMixture], samples: Sequence[torch.Tensor] | None = None
    ) -> None:
        self._reset()
        if self._shared is not None:
            self._shared.fit(statistics)
            return
        for ticket in range(len(statistics)):
            self.add(statistics[ticket])

    def add(self, statistics: FeatureMixture, samples: torch.Tensor | None = None) -> None:
        if self._shared is not None:
            self._shared.add(statistics)
            return
        mixture = statistics.merged() if self.config.covariance == "ticket" else statistics
        seed = self.config.seed + 7919 * len(self._mixtures)
        drawn = mixture.sample(self.config.samples, torch.Generator().manual_seed(seed))
        own = MixtureStack([mixture]).log_prob(drawn)[:, 0]
        self._usual.append(torch.stack([own.mean(), own.std().clamp_min(1e-6)]).float())
        self._mixtures.append(mixture)
        self._stack = None

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        if self.num_tickets == 0:
            raise BankError("the router knows no ticket yet")
        if self._shared is not None:
            return self._shared.route(features, budget=budget)
        if self._stack is None:
            self._stack = MixtureStack(self._mixtures)
        scores = self._stack.log_prob(features.detach())
        probabilities = scores.softmax(dim=1).float()
        familiar = None
        if self.config.novelty is not None:
            reached, best = scores.max(dim=1)
            usual = torch.stack(self._usual).to(scores)[best]
            deviations = (usual[:, 0] - reached) / usual[:, 1]
            familiar = familiarity(deviations, self.config.novelty).float()
        return self.choose(probabilities, familiarity=familiar, budget=budget)

    def flops(self) -> int:
        if self._shared is not None:
            return self._shared.flops()
        if not self._mixtures:
            return 0
        if self._stack is None:
            self._stack = MixtureStack(self._mixtures)
        return self._stack.flops() + 4 * self.num_tickets

    def state_dict(self) -> dict[str, torch.Tensor]:
        if self._shared is not None:
            return self._shared.state_dict()
        if not self._mixtures:
            return {}
        state = {
            f"{ticket}.{name}": tensor
            for ticket, mixture in enumerate(self._mixtures)
            for name, tensor in mixture.tensors().items()
        }
        return state | {"usual": torch.stack(self._usual)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._reset()
        if self._shared is not None:
            self._shared.load_state_dict(state)
            return
        if not state:
            return
        self._usual = list(state["usual"].clone())
        parts: list[dict[str, torch.Tensor]] = [{} for _ in self._usual]
        for key, tensor in state.items():
            ticket, _, name = key.partition(".")
            if name:
                parts[int(ticket)][name] = tensor.clone()
        self._mixtures = [FeatureMixture(part) for part in parts]


class _SharedRouter(CentroidRouter):
    """Nearest mean in the metric of the tickets' mean covariance."""

    name: ClassVar[str] = "mahalanobis"
    config_class: ClassVar[type[BaseModel]] = MahalanobisRouterConfig

    def describe(
        self, ticket: int, statistics: FeatureMixture, samples: torch.Tensor | None, *, full: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return statistics.mean()[None], statistics.covariance() if full else None
