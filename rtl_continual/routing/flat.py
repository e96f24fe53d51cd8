"""The flat router: one linear layer and a softmax over all tickets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch.nn import functional as F

from rtl_continual.errors import BankError
from rtl_continual.routing._metric import WithinMetric, alive_features
from rtl_continual.routing._mixture import FeatureMixture
from rtl_continual.routing._router import Router, RouterConfig, Routing
from rtl_continual.routing._rows import Rows

__all__ = ["FlatRouter", "FlatRouterConfig", "GateLearner"]


_FIXED_ORDER_VALUES = 2**14
"""Gates with at most so many weights sum in a fixed order; larger ones use a matrix product."""

_VALUES_AT_ONCE = 2**24
"""Products or logits held in memory at once; larger batches are worked on in parts."""


_MOST_SAMPLES = 2**15
"""Drawn for a fit from all tickets together: above sixteen tickets each gives fewer."""


class FlatRouterConfig(RouterConfig):
    """Options of the flat router."""

    name: Literal["flat"] = "flat"
    samples_per_ticket: int = Field(
        2048,
        ge=16,
        description="drawn from each ticket's mixture to fit the gate; fewer above 16 tickets",
    )
    weight_decay: float = Field(
        1e-5, ge=0, description="L2 penalty on the gate's (standardised) weights"
    )
    iterations: int = Field(100, ge=1, description="at most so many L-BFGS iterations per fit")
    seed: int = Field(0, ge=0, description="of the samples drawn from the mixtures")
    discriminant_above: int = Field(
        64,
        ge=1,
        description="with more tickets the gate is their linear discriminant in closed form, which "
        "costs nothing to fit and grows by a row per ticket",
    )


class FlatRouter(Router):
    """Multinomial logistic regression over trunk statistics, grown without old images.

    Each fit draws samples from every ticket's mixture and solves the convex problem, so the gate
    depends on the tickets alone and not on the order of earlier fits.

    Its cost grows with the square of the number of tickets. Above ``discriminant_above`` of them
    the gate is Fisher's linear discriminant of the tickets' means under the mean covariance of the
    first ``discriminant_above``: the same one matrix product per input, and a new ticket is a new
    row.

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
    config: FlatRouterConfig

    def __init__(self, config: FlatRouterConfig | None = None) -> None:
        super().__init__(config)
        self._mixtures: Sequence[FeatureMixture] = ()
        self._weight, self._bias = Rows(torch.zeros(0, 0)), Rows(torch.zeros(0))
        self._metric: WithinMetric | None = None

    @property
    def weight(self) -> torch.Tensor:
        """``[tickets, features]``."""
        return self._weight.values

    @weight.setter
    def weight(self, value: torch.Tensor) -> None:
        self._weight = Rows(value)

    @property
    def bias(self) -> torch.Tensor:
        """``[tickets]``."""
        return self._bias.values

    @bias.setter
    def bias(self, value: torch.Tensor) -> None:
        self._bias = Rows(value)

    def _set(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self._weight, self._bias = Rows(weight), Rows(bias)

    @property
    def num_tickets(self) -> int:
        return len(self._bias)

    def fit(
        self, statistics: Sequence[FeatureMixture], samples: Sequence[torch.Tensor] | None = None
    ) -> None:
        self._metric = None
        if len(statistics) > self.config.discriminant_above:
            self._discriminate(statistics)
        else:
            self._mixtures = list(statistics)
            self._solve(start=None)

    def add(self, statistics: FeatureMixture, samples: torch.Tensor | None = None) -> None:
        self._grow([statistics], None)

    def _grow(self, statistics: Sequence[FeatureMixture], learner: GateLearner | None) -> None:
        self._check_mixtures()
        if self._metric is not None:
            for mixture in statistics:
                self._append(mixture)
        elif self.num_tickets + len(statistics) > self.config.discriminant_above:
            self._discriminate([*self._mixtures, *statistics])
        else:
            self._mixtures = [*self._mixtures, *statistics]
            self._solve(start=learner)

    def _discriminate(self, statistics: Sequence[FeatureMixture]) -> None:
        count = self.config.discriminant_above
        first = [statistics[ticket] for ticket in range(count)]
        metric = WithinMetric("full", settled=count)
        for mixture in first:
            metric.see(mixture.covariance())
        metric.refresh(torch.stack([mixture.mean() for mixture in first]))
        self._metric, self._mixtures = metric, ()
        width = first[0].width
        self._set(torch.zeros(0, width), torch.zeros(0))
        for ticket in range(len(statistics)):
            self._append(first[ticket] if ticket < count else statistics[ticket])

    def _append(self, statistics: FeatureMixture) -> None:
        assert self._metric is not None
        point = self._metric.apply(statistics.mean()[None])[0]
        weight = self._metric.transform @ point
        self._weight.append(weight)
        self._bias.append(-0.5 * point.square().sum() - weight @ self._metric.offset)

    def _check_mixtures(self) -> None:
        if self._metric is None and len(self._mixtures) != self.num_tickets:
            raise BankError("this gate was loaded without its tickets' mixtures; call fit() first")

    def gate_learner(self, *groups: torch.Tensor) -> GateLearner:
        """A gate with one more output for each new ticket, to be trained jointly with them.

        A gate in closed form is not trained: its learner knows the new tickets alone.

        Args:
            *groups: router features of each new ticket's data, ``[samples, features]``.
        """
        self._check_mixtures()
        return GateLearner(self._mixtures, groups, self.config)

    def add_trained(self, statistics: Sequence[FeatureMixture], learner: GateLearner) -> None:
        """:meth:`add` for one or several tickets, starting from the gate trained with them.

        The start saves iterations and moves the solution within the solver's tolerance: the gate
        is not the same bits as one fitted from scratch.
        """
        self._grow(statistics, learner)

    def _solve(self, start: GateLearner | None) -> None:
        if not self._mixtures:
            self._set(torch.zeros(0, 0), torch.zeros(0))
            return
        mean, scale = _pooled_moments(self._mixtures)
        drawn = _draw(self._mixtures, self.config)
        x = torch.cat([(part - mean) / scale for part in drawn])
        y = torch.arange(len(drawn)).repeat_interleave(len(drawn[0]))
        weight = torch.zeros(len(drawn), x.shape[1], dtype=torch.float64)
        bias = torch.zeros(len(drawn), dtype=torch.float64)
        if start is not None:
            raw_weight, raw_bias = start.folded()
            bias = raw_bias + raw_weight @ mean
            weight = (raw_weight * scale).where(scale.isfinite(), torch.zeros_like(raw_weight))
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
        self._set(folded.float(), (bias.detach() - folded @ mean).float())

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Gate logits ``[batch, tickets]``.

        Gates of up to a few thousand weights give a sample the same bits whatever the batch: the
        products are summed in a fixed order. Larger ones use a matrix kernel, which blocks by
        batch size and so rounds the last bits of a logit differently.
        """
        weight, bias = self.weight.to(features.device), self.bias.to(features.device)
        x = features.float().contiguous()
        if weight.numel() > _FIXED_ORDER_VALUES:
            return torch.addmm(bias, x, weight.T)
        rows = max(1, _VALUES_AT_ONCE // max(1, weight.numel()))
        parts = [(part[:, None, :] * weight).sum(dim=2) + bias for part in x.split(rows)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        if self.num_tickets == 0:
            raise BankError("the router knows no ticket yet")
        rows = max(1, _VALUES_AT_ONCE // self.num_tickets)
        parts = [
            self.choose(self.scores(part).softmax(dim=1), budget=budget)
            for part in features.detach().split(rows)
        ]
        return parts[0] if len(parts) == 1 else Routing(*map(torch.cat, zip(*parts, strict=True)))

    def flops(self) -> int:
        return 2 * self.weight.numel() + self.num_tickets

    def state_dict(self) -> dict[str, torch.Tensor]:
        state = {"weight": self.weight, "bias": self.bias}
        if self._metric is not None:
            state |= {f"metric.{name}": t for name, t in self._metric.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._set(state["weight"], state["bias"])
        self._mixtures, self._metric = (), None
        metric = {n.removeprefix("metric."): t for n, t in state.items() if n.startswith("metric.")}
        if metric:
            self._metric = WithinMetric("full", settled=self.config.discriminant_above)
            self._metric.load_state_dict(metric)

    def attach(self, statistics: Sequence[FeatureMixture]) -> None:
        """Hand back the mixtures of the tickets that a loaded gate was fitted on.

        They are looked at only when the gate grows, so the sequence may load them then.
        """
        if len(statistics) != self.num_tickets:
            raise BankError(
                f"the gate has {self.num_tickets} outputs for {len(statistics)} tickets"
            )
        if self._metric is None:
            self._mixtures = statistics


class GateLearner:
    """A gate under joint training with one or several new tickets.

    The new tickets' features come from the same trunk pass that feeds the body; the old tickets
    are represented by samples of their mixtures.

    Args:
        mixtures: of the tickets so far.
        groups: router features of each new ticket's data, ``[samples, features]``.
        config: the flat router's options.
    """

    def __init__(
        self,
        mixtures: Sequence[FeatureMixture],
        groups: Sequence[torch.Tensor],
        config: FlatRouterConfig,
    ) -> None:
        self.label, self._new = len(mixtures), len(groups)
        self._generator = torch.Generator().manual_seed(config.seed)
        drawn = _draw(mixtures, config)
        pool = torch.cat([*drawn, *(group.detach().cpu().double() for group in groups)])
        self.mean, self.scale = pool.mean(dim=0), pool.std(dim=0, correction=0).clamp_min(1e-6)
        device = groups[0].device
        self._old = (
            ((torch.cat(drawn) - self.mean) / self.scale).float().to(device) if drawn else None
        )
        self._old_labels = (
            torch.arange(self.label).repeat_interleave(len(drawn[0]) if drawn else 0).to(device)
        )
        outputs = self.label + self._new
        self.weight = torch.zeros(outputs, pool.shape[1], device=device, requires_grad=True)
        self.bias = torch.zeros(outputs, device=device, requires_grad=True)

    def parameters(self) -> list[torch.Tensor]:
        """What an optimizer updates."""
        return [self.weight, self.bias]

    def loss(self, features: torch.Tensor, group: int = 0) -> torch.Tensor:
        """Cross-entropy of a batch of new features and as many samples of old tickets' ones.

        Over a batch of each new ticket every ticket weighs the same.

        Args:
            features: of one new ticket's data, ``[batch, features]``.
            group: which new ticket's, counted from 0.
        """
        x = (features - self.mean.to(features)) / self.scale.to(features)
        logits = x.float() @ self.weight.T + self.bias
        new = F.cross_entropy(logits, torch.full((len(x),), self.label + group, device=x.device))
        if self._old is None:
            return new
        pick = torch.randint(len(self._old), (len(x),), generator=self._generator).to(x.device)
        old = F.cross_entropy(self._old[pick] @ self.weight.T + self.bias, self._old_labels[pick])
        return (self._new * new + self.label * old) / (self.label + self._new)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias for raw features, float64."""
        weight = self.weight.detach().cpu().double() / self.scale
        return weight, self.bias.detach().cpu().double() - weight @ self.mean


def _pooled_moments(mixtures: Sequence[FeatureMixture]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each feature over all tickets.

    A feature that is dead in every ticket gets an infinite deviation, and so no weight.
    """
    moments = [mixture.moments() for mixture in mixtures]
    means = torch.stack([mean for mean, _ in moments])
    within = torch.stack([variance for _, variance in moments]).mean(dim=0)
    scale = (within + means.var(dim=0, correction=0)).sqrt().clamp_min(1e-6)
    return means.mean(dim=0), scale.where(alive_features(means, within) > 0, torch.inf)


def _draw(mixtures: Sequence[FeatureMixture], config: FlatRouterConfig) -> list[torch.Tensor]:
    """Samples per ticket; a ticket's samples depend on its own id, the seed and their number."""
    count = min(config.samples_per_ticket, max(16, _MOST_SAMPLES // max(1, len(mixtures))))
    return [
        mixture.sample(count, torch.Generator().manual_seed(config.seed + 7919 * index))
        for index, mixture in enumerate(mixtures)
    ]
