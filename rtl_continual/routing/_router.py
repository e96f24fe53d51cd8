"""The contract of every router."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel

from rtl_continual.routing._mixture import FeatureMixture

__all__ = ["UNKNOWN", "Router", "Routing"]

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


class Router(ABC):
    """Maps router features to tickets, sample by sample.

    A router learns from the tickets' feature mixtures alone, so that it can grow without old
    images. Each row of an answer depends on that row's features only, never on the batch.

    A router is built from its options alone, ``RouterClass(config)``, keeps them as ``config``,
    and knows no ticket then.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[BaseModel]]
    config: Any

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
        """Multiply-adds times two for one input, the trunk's statistics not counted."""

    @abstractmethod
    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything :meth:`load_state_dict` needs, as tensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what :meth:`state_dict` gave."""
