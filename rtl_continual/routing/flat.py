"""The flat router: one linear layer and a softmax over all tickets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional as F

from rtl_continual.errors import BankError
from rtl_continual.routing._mixture import FeatureMixture
from rtl_continual.routing._router import UNKNOWN, Router, Routing

__all__ = ["FlatRouter", "FlatRouterConfig", "GateLearner"]


class FlatRouterConfig(BaseModel):
    """Options of the flat router."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["flat"] = "flat"
    samples_per_ticket: int = Field(
        2048, ge=16, description="drawn from each ticket's mixture to fit the gate"
    )
    weight_decay: float = Field(
        1e-5, ge=0, description="L2 penalty on the gate's (standardised) weights"
    )
    iterations: int = Field(100, ge=1, description="at most so many L-BFGS iterations per fit")
    abstain_below: float = Field(
        0.0, ge=0, le=1, description="abstain when the confidence is lower"
    )
    seed: int = Field(0, ge=0, description="of the samples drawn from the mixtures")


class FlatRouter(Router):
    """Multinomial logistic regression over trunk statistics, grown without old images.

    Each fit draws samples from every ticket's mixture and solves the convex problem, so the gate
    depends on the tickets alone and not on the order of earlier fits.

    Args:
        config: options.

    Example:
        >>> import torch
        >>> from rtl_continual.routing import FeatureMixture
        >>> left, right = torch.randn(100, 4) - 5, torch.randn(100, 4) + 5
        >>> router = FlatRouter()
        >>> router.fit([FeatureMixture.fit(left), FeatureMixture.fit(right)])
        >>> router.route(torch.tensor([[5.0] * 4, [-5.0] * 4])).ticket_ids.flatten().tolist()
        [1, 0]
    """

    name: ClassVar[str] = "flat"
    config_class: ClassVar[type[BaseModel]] = FlatRouterConfig

    def __init__(self, config: FlatRouterConfig | None = None) -> None:
        self.config = config or FlatRouterConfig()
        self._mixtures: Sequence[FeatureMixture] = ()
        self.weight = torch.zeros(0, 0)
        self.bias = torch.zeros(0)

    @property
    def num_tickets(self) -> int:
        return len(self.bias)

    def fit(
        self, statistics: Sequence[FeatureMixture], samples: Sequence[torch.Tensor] | None = None
    ) -> None:
        self._mixtures = list(statistics)
        self._solve(start=None)

    def add(self, statistics: FeatureMixture, samples: torch.Tensor | None = None) -> None:
        self._check_mixtures()
        self._mixtures = [*self._mixtures, statistics]
        self._solve(start=None)

    def _check_mixtures(self) -> None:
        if len(self._mixtures) != self.num_tickets:
            raise BankError("this gate was loaded without its tickets' mixtures; call fit() first")

    def gate_learner(self, features: torch.Tensor) -> GateLearner:
        """A gate with one more output, to be trained jointly with a new ticket.

        Args:
            features: router features of the new ticket's data, ``[samples, features]``.
        """
        self._check_mixtures()
        return GateLearner(self._mixtures, features, self.config)

    def add_trained(self, statistics: FeatureMixture, learner: GateLearner) -> None:
        """:meth:`add`, starting from a jointly trained gate."""
        self._check_mixtures()
        self._mixtures = [*self._mixtures, statistics]
        self._solve(start=learner)

    def _solve(self, start: GateLearner | None) -> None:
        if not self._mixtures:
            self.weight, self.bias = torch.zeros(0, 0), torch.zeros(0)
            return
        mean, scale = _pooled_moments(self._mixtures)
        drawn = _draw(self._mixtures, self.config.samples_per_ticket, self.config.seed)
        x = torch.cat([(part - mean) / scale for part in drawn])
        y = torch.arange(len(drawn)).repeat_interleave(self.config.samples_per_ticket)
        weight = torch.zeros(len(drawn), x.shape[1], dtype=torch.float64)
        bias = torch.zeros(len(drawn), dtype=torch.float64)
        if start is not None:
            raw_weight, raw_bias = start.folded()
            weight, bias = raw_weight * scale, raw_bias + raw_weight @ mean
        weight.requires_grad_()
        bias.requires_grad_()
        solver = torch.optim.LBFGS(
            [weight, bias], max_iter=self.config.iterations, line_search_fn="strong_wolfe"
        )

        def closure() -> torch.Tensor:
            solver.zero_grad()
            loss = F.cross_entropy(x @ weight.T + bias, y)
            loss = loss + 0.5 * self.config.weight_decay * weight.pow(2).sum()
            loss.backward()
            return loss

        if len(drawn) > 1:
            with torch.enable_grad():
                solver.step(closure)
        folded = weight.detach() / scale
        self.weight = folded.float()
        self.bias = (bias.detach() - folded @ mean).float()

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Gate logits ``[batch, tickets]``.

        Sample by sample the same bits, whatever the batch: the products are summed in a fixed
        order, without a matrix kernel that blocks by batch size.
        """
        weight, bias = self.weight.to(features.device), self.bias.to(features.device)
        return (features.float().contiguous()[:, None, :] * weight).sum(dim=2) + bias

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        if self.num_tickets == 0:
            raise BankError("the router knows no ticket yet")
        confidence, ids = self.scores(features.detach()).softmax(dim=1).max(dim=1)
        ids = torch.where(confidence < self.config.abstain_below, UNKNOWN, ids)
        return Routing(ids[:, None], torch.ones_like(confidence)[:, None], confidence)

    def flops(self) -> int:
        return 2 * self.weight.numel() + self.num_tickets

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight, "bias": self.bias}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.weight, self.bias = state["weight"].clone(), state["bias"].clone()

    def attach(self, statistics: Sequence[FeatureMixture]) -> None:
        """Hand back the mixtures of the tickets that a loaded gate was fitted on.

        They are looked at only when the gate grows, so the sequence may load them then.
        """
        if len(statistics) != self.num_tickets:
            raise BankError(
                f"the gate has {self.num_tickets} outputs for {len(statistics)} tickets"
            )
        self._mixtures = statistics


class GateLearner:
    """A gate under joint training with a new ticket.

    The new ticket's features come from the same trunk pass that feeds the body; the old tickets
    are represented by samples of their mixtures.

    Args:
        mixtures: of the tickets so far.
        features: router features of the new ticket's data, ``[samples, features]``.
        config: the flat router's options.
    """

    def __init__(
        self, mixtures: Sequence[FeatureMixture], features: torch.Tensor, config: FlatRouterConfig
    ) -> None:
        new = features.detach().cpu().double()
        self.label = len(mixtures)
        self._generator = torch.Generator().manual_seed(config.seed)
        drawn = _draw(mixtures, config.samples_per_ticket, config.seed)
        pool = torch.cat([*drawn, new])
        self.mean, self.scale = pool.mean(dim=0), pool.std(dim=0, correction=0).clamp_min(1e-6)
        device = features.device
        self._old = (
            ((torch.cat(drawn) - self.mean) / self.scale).float().to(device) if drawn else None
        )
        self._old_labels = (
            torch.arange(self.label).repeat_interleave(config.samples_per_ticket).to(device)
        )
        self.weight = torch.zeros(self.label + 1, new.shape[1], device=device, requires_grad=True)
        self.bias = torch.zeros(self.label + 1, device=device, requires_grad=True)

    def parameters(self) -> list[torch.Tensor]:
        """What an optimizer updates."""
        return [self.weight, self.bias]

    def loss(self, features: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of a batch of new features and as many samples of old tickets' ones.

        Every ticket weighs the same.
        """
        x = (features - self.mean.to(features)) / self.scale.to(features)
        logits = x.float() @ self.weight.T + self.bias
        new = F.cross_entropy(logits, torch.full((len(x),), self.label, device=x.device))
        if self._old is None:
            return new
        pick = torch.randint(len(self._old), (len(x),), generator=self._generator).to(x.device)
        old = F.cross_entropy(self._old[pick] @ self.weight.T + self.bias, self._old_labels[pick])
        return (new + self.label * old) / (self.label + 1)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias for raw features, float64."""
        weight = self.weight.detach().cpu().double() / self.scale
        return weight, self.bias.detach().cpu().double() - weight @ self.mean


def _pooled_moments(mixtures: Sequence[FeatureMixture]) -> tuple[torch.Tensor, torch.Tensor]:
    moments = [mixture.moments() for mixture in mixtures]
    means = torch.stack([mean for mean, _ in moments])
    variance = torch.stack([var for _, var in moments]).mean(dim=0) + means.var(dim=0, correction=0)
    return means.mean(dim=0), variance.sqrt().clamp_min(1e-6)


def _draw(mixtures: Sequence[FeatureMixture], count: int, seed: int) -> list[torch.Tensor]:
    """Samples per ticket; a ticket's samples depend on its own id and the seed alone."""
    return [
        mixture.sample(count, torch.Generator().manual_seed(seed + 7919 * index))
        for index, mixture in enumerate(mixtures)
    ]
