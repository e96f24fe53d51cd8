"""The router ``energy``: the ticket that is surest of an input, among the nearest ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from rtl_continual.errors import BankError
from rtl_continual.plugins import hookimpl
from rtl_continual.routing import UNKNOWN, FeatureMixture, OutputRouter, OutputsOf, Router, Routing

__all__ = ["EnergyRouter", "EnergyRouterConfig"]

rtl_api_version = 1


class EnergyRouterConfig(BaseModel):
    """Options of the energy router."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["energy"] = "energy"
    score: Literal["energy", "entropy", "features"] = Field(
        "energy",
        description="energy or entropy of each candidate's outputs, or the features' own energy",
    )
    candidates: int = Field(4, ge=1, description="nearest tickets that are scored")
    tickets: int = Field(1, ge=1, description="tickets mixed for an input; at most the candidates")
    temperature: float = Field(1.0, gt=0, description="larger mixes more evenly")
    abstain_above: float | None = Field(
        None, description="abstain if the lowest energy per feature is higher; null never abstains"
    )


class EnergyRouter(OutputRouter):
    """Two steps: the nearest means, then a score for each of these candidates.

    In a bank the score is the energy ``-logsumexp(outputs)`` (Liu et al., 2020) or the entropy
    (SupSup; Wortsman et al., 2020) of what the candidate's head says. Where there are features
    alone, and with ``score="features"``, it is the energy of the features under the candidate's
    mixture.

    Args:
        config: options.

    Example:
        >>> import torch
        >>> from rtl_continual.routing import FeatureMixture
        >>> left, right = torch.randn(100, 4) - 5, torch.randn(100, 4) + 5
        >>> router = EnergyRouter()
        >>> router.fit([FeatureMixture.fit(left), FeatureMixture.fit(right)])
        >>> router.route(torch.tensor([[5.0] * 4, [-5.0] * 4])).ticket_ids.flatten().tolist()
        [1, 0]
    """

    name: ClassVar[str] = "energy"
    config_class: ClassVar[type[BaseModel]] = EnergyRouterConfig

    def __init__(self, config: EnergyRouterConfig | None = None) -> None:
        self.config = config or EnergyRouterConfig()
        self._mixtures: list[FeatureMixture] = []
        self._means = torch.zeros(0, 0, dtype=torch.float64)
        self._scale = torch.zeros(0, dtype=torch.float64)

    @property
    def num_tickets(self) -> int:
        return len(self._mixtures)

    def fit(
        self, statistics: Sequence[FeatureMixture], samples: Sequence[torch.Tensor] | None = None
    ) -> None:
        self._mixtures = list(statistics)
        self._measure()

    def add(self, statistics: FeatureMixture, samples: torch.Tensor | None = None) -> None:
        self._mixtures = [*self._mixtures, statistics]
        self._measure()

    def _measure(self) -> None:
        """Means, and the scale in which distances to them are compared."""
        if self._mixtures:
            moments = [mixture.moments() for mixture in self._mixtures]
            self._means = torch.stack([mean for mean, _ in moments])
            self._scale = torch.stack([variance for _, variance in moments]).mean(dim=0).sqrt()

    def energies(self, features: torch.Tensor) -> torch.Tensor:
        """Energy per feature ``[batch, tickets]``; infinite where a ticket is no candidate."""
        x = features.detach().cpu().double()
        distance = ((x[:, None, :] - self._means) / self._scale).square().sum(dim=2)
        count = min(self.config.candidates, self.num_tickets)
        nearest = distance.topk(count, dim=1, largest=False).indices
        energy = torch.full_like(distance, torch.inf)
        for ticket, mixture in enumerate(self._mixtures):
            rows = (nearest == ticket).any(dim=1).nonzero().flatten()
            if len(rows):
                energy[rows, ticket] = -mixture.log_prob(x[rows]) / mixture.width
        return energy

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        if not self.num_tickets:
            raise BankError("the router knows no ticket yet")
        energy = self.energies(features)
        sharpness = self._mixtures[0].width / self.config.temperature
        return self._answer(energy, sharpness, energy, features, budget)

    def _answer(
        self,
        scores: torch.Tensor,
        sharpness: float,
        energy: torch.Tensor,
        features: torch.Tensor,
        budget: int | None,
    ) -> Routing:
        """The tickets with the lowest scores; unknown where no feature mixture fits."""
        count = min(self.config.tickets, self.config.candidates, self.num_tickets, budget or 10**9)
        lowest, ids = scores.topk(count, dim=1, largest=False)
        weights = (-lowest * sharpness).softmax(dim=1)
        confidence = (-scores * sharpness).softmax(dim=1).amax(dim=1)
        if self.config.abstain_above is not None:
            unsure = energy.amin(dim=1) > self.config.abstain_above
            ids = torch.where(unsure[:, None], UNKNOWN, ids)
        device = features.device
        return Routing(ids.to(device), weights.float().to(device), confidence.float().to(device))

    def route_by_outputs(
        self, features: torch.Tensor, outputs_of: OutputsOf, *, budget: int | None = None
    ) -> Routing:
        if self.config.score == "features" or not self.num_tickets:
            return self.route(features, budget=budget)
        by_features = self.energies(features)
        scores = torch.full_like(by_features, torch.inf)
        for ticket in range(self.num_tickets):
            rows = by_features[:, ticket].isfinite().nonzero().flatten()
            if len(rows):
                outputs = outputs_of(ticket, rows).detach().cpu().double()
                scores[rows, ticket] = self._unsure(outputs)
        return self._answer(scores, 1 / self.config.temperature, by_features, features, budget)

    def _unsure(self, outputs: torch.Tensor) -> torch.Tensor:
        if self.config.score == "energy":
            return -outputs.logsumexp(dim=1)
        return torch.special.entr(outputs.softmax(dim=1)).sum(dim=1)

    def flops(self) -> int:
        if not self._mixtures:
            return 0
        width = self._mixtures[0].width
        costs = sorted((_mixture_flops(mixture) for mixture in self._mixtures), reverse=True)
        return 4 * self.num_tickets * width + sum(costs[: self.config.candidates])

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {
            f"{ticket}.{key}": tensor
            for ticket, mixture in enumerate(self._mixtures)
            for key, tensor in mixture.tensors().items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        parts: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in state.items():
            ticket, _, name = key.partition(".")
            parts.setdefault(int(ticket), {})[name] = tensor.clone()
        self._mixtures = [FeatureMixture(parts[ticket]) for ticket in sorted(parts)]
        self._measure()


def _mixture_flops(mixture: FeatureMixture) -> int:
    """Of one log density: projection on the axes, then one triangular solve per Gaussian."""
    components, rank = mixture.means.shape
    axes = 0 if mixture.axes is None else 4 * rank * mixture.width
    return components * (axes + rank * rank + 2 * mixture.width)


@hookimpl
def register_routers() -> dict[str, type[Router]]:
    """The router ``energy``."""
    return {"energy": EnergyRouter}
