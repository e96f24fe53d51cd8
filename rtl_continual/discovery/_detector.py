"""The contract of every shift detector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, final

import torch
from pydantic import BaseModel

from rtl_continual.discovery._known import KnownTickets

__all__ = ["ShiftDetector", "Verdict"]


class Verdict(NamedTuple):
    """What a detector says about a mini-batch.

    ``shift`` is true from the mini-batch that raised the alarm until :meth:`ShiftDetector.reset`;
    ``statistic`` is the number watched, ``level`` the evidence of a shift, 1 raises the alarm.
    """

    shift: bool
    statistic: float
    level: float


class ShiftDetector(ABC):
    """Watches a stream of mini-batches and says when it has left what the tickets know.

    What is watched is one number per mini-batch: the median over its samples of
    ``log(1 + surprise)``; see :meth:`KnownTickets.surprise`. Each sample is compared with the
    tickets by itself, so a batch that holds only some classes of a known domain moves the number
    little: its samples still lie inside. Tests on batch means (MMD, Hotelling) do move then.

    Args:
        config: options, an instance of ``config_class``.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[BaseModel]]

    def __init__(self, config: Any = None) -> None:
        self.config = config if config is not None else self.config_class()
        self._shift = False

    @final
    def update(self, features: torch.Tensor, known: KnownTickets) -> Verdict:
        """Look at the next mini-batch. Not to be overridden: see :meth:`observe`.

        Args:
            features: router features ``[batch, features]``.
            known: the tickets.

        Raises:
            DataError: if the batch is empty or a feature is not finite.
        """
        return self.observe(float(known.surprise(features).log1p().median()))

    @final
    def observe(self, statistic: float) -> Verdict:
        """:meth:`update` with the number watched, where it is at hand, as on a stream.

        Not to be overridden: a detector is what :meth:`_evidence` makes of the numbers.
        """
        level = self._evidence(statistic)
        self._shift = self._shift or level >= 1
        return Verdict(self._shift, statistic, level)

    def reset(self) -> None:
        """Forget everything seen: the bank has grown, or the alarm was answered."""
        self._shift = False
        self._restart()

    @abstractmethod
    def _evidence(self, statistic: float) -> float:
        """Take in one number and return the evidence of a shift so far."""

    @abstractmethod
    def _restart(self) -> None:
        """Forget the numbers seen."""
