"""The contract of every router."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field

from rtl_continual.errors import RTLError
from rtl_continual.routing._mixture import FeatureMixture

__all__ = ["UNKNOWN", "Router", "RouterConfig", "Routing"]

UNKNOWN = -1
"""The ticket id of an input for which the router abstains."""


class Routing(NamedTuple):
    """A router's answer for a batch.

    ``ticket_ids`` is ``int64 [batch, k]``, best first, :data:`UNKNOWN` where the router abstains;
    ``weights`` is ``[batch, k]`` and sums to one; ``confidence`` is ``[batch]`` in 0..1.
    """

    ticket_ids: torch.Tensor
    weights: torch.Tensor
    confidence: torch.Tensor


class RouterConfig(BaseModel):
    """Options that every built-in router has; a plugin's config may derive from it.

    A router **abstains** from an input when its confidence is below ``abstain_below``. The input
    then goes to the ticket ``fallback`` with weight one; without one (or as long as the bank does
    not hold that ticket yet) it is :data:`UNKNOWN`. :meth:`Router.abstains` counts both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    abstain_below: float = Field(
        0.0, ge=0, le=1, description="abstain when the confidence is lower"
    )
    fallback: int | None = Field(
        None,
        ge=0,
        description="id of the ticket that serves where the router abstains; null: the answer is "
        "unknown",
    )
    mix: int = Field(
        1,
        ge=1,
        description="at most so many tickets per input, their outputs mixed by the tickets' "
        "probabilities; 1 takes the best alone",
    )


class Router(ABC):
    """Maps router features to tickets, sample by sample.

    A router learns from the tickets' feature mixtures alone, so that it can grow without old
    images. Each row of an answer depends on that row's features only, never on the batch.

    A router is built from its options alone, ``RouterClass(config)``, keeps them as ``config``,
    and knows no ticket then.

    Args:
        config: options, an instance of ``config_class``; default: all at their defaults.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[BaseModel]]
    config: Any

    def __init__(self, config: Any = None) -> None:
        self.config = config if config is not None else self.config_class()

    @property
    @abstractmethod
    def num_tickets(self) -> int:
        """How many tickets it chooses among; ids are ``0 .. num_tickets - 1``."""

    @abstractmethod
    def fit(
        self, statistics: Sequence[FeatureMixture], samples: Sequence[torch.Tensor] | None = None
    ) -> None:
        """Learn from scratch.

        Args:
            statistics: one mixture per ticket, in the order of their ids.
            samples: real features per ticket, ``[samples, features]`` each, where at hand.
        """

    @abstractmethod
    def add(self, statistics: FeatureMixture, samples: torch.Tensor | None = None) -> None:
        """Learn one more ticket; ids of the others stay."""

    @abstractmethod
    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        """Choose tickets.

        Args:
            features: router features ``[batch, features]``.
            budget: use at most so many tickets per input; ``None`` leaves it to the router.
        """

    @abstractmethod
    def flops(self) -> int:
        """Multiply-adds times two for one input, the trunk's statistics not counted.

        ``rtl_continual.backbones.statistics_flops`` counts those.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything :meth:`load_state_dict` needs, as tensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what :meth:`state_dict` gave."""

    def abstains(self, routing: Routing) -> torch.Tensor:
        """For which inputs of an answer the router abstained, whoever serves them: ``[batch]``.

        Args:
            routing: an answer of this router's.
        """
        below = float(getattr(self.config, "abstain_below", 0.0))
        return (routing.ticket_ids[:, 0] == UNKNOWN) | (routing.confidence < below)

    def choose(
        self,
        probabilities: torch.Tensor,
        *,
        ids: torch.Tensor | None = None,
        familiarity: torch.Tensor | None = None,
        budget: int | None = None,
    ) -> Routing:
        """From probabilities to an answer: the best tickets, mixture weights, abstention.

        Reads ``mix``, ``abstain_below`` and ``fallback`` off :attr:`config`, where it has them.

        Args:
            probabilities: of the candidates, ``[batch, candidates]``.
            ids: the candidates' ticket ids ``[batch, candidates]``; ``None`` if column ``i`` is
                ticket ``i``.
            familiarity: in 0..1 ``[batch]``; the confidence is the best candidate's probability
                times it. ``None``: the probability alone.
            budget: see :meth:`route`.

        Raises:
            RTLError: if the budget is below 1.
        """
        if budget is not None and budget < 1:
            raise RTLError(f"a budget of {budget} tickets per input is too small; give at least 1")
        most = int(getattr(self.config, "mix", 1))
        count = min(most, probabilities.shape[1], budget or most)
        if count == 1:
            best, chosen = probabilities.max(dim=1, keepdim=True)
            weights = torch.ones_like(best)
        else:
            best, chosen = probabilities.topk(count, dim=1)
            weights = best / best.sum(dim=1, keepdim=True)
        confidence = best[:, 0] if familiarity is None else best[:, 0] * familiarity
        chosen = chosen if ids is None else ids.gather(1, chosen)
        below = float(getattr(self.config, "abstain_below", 0.0))
        if below > 0:
            fallback = getattr(self.config, "fallback", None)
            other = UNKNOWN if fallback is None or fallback >= self.num_tickets else fallback
            unsure = (confidence < below)[:, None]
            first = torch.arange(count, device=weights.device) == 0
            chosen = torch.where(unsure, other, chosen)
            weights = torch.where(unsure, first.to(weights.dtype), weights)
        return Routing(chosen, weights, confidence)
