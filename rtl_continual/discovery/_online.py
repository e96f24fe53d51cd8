"""Discovery on a stream of mini-batches."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from rtl_continual.discovery._detector import Verdict
from rtl_continual.discovery._discover import UNASSIGNED, Discovery, DiscoveryConfig, discover
from rtl_continual.discovery._features import as_features
from rtl_continual.discovery._known import KnownTickets
from rtl_continual.discovery._registry import build_detector

__all__ = ["OnlineDiscovery", "OnlineStep"]

ALERT = 2
"""After an alarm so many times the minimum support of samples are looked at as they arrive."""


class OnlineStep(NamedTuple):
    """What came of a mini-batch.

    ``ticket_ids`` is ``int64 [batch]``, :data:`UNASSIGNED` where no ticket fits yet; ``verdict``
    is the detector's; ``found`` is the decision about the ``len(found.ticket_ids)`` latest
    samples if new clusters were found, or would have become tickets but for ``max_tickets``, else
    ``None``.
    """

    ticket_ids: np.ndarray
    verdict: Verdict
    found: Discovery | None


class OnlineDiscovery:
    """Watches a stream and decides, when there is enough evidence, that a new cluster began.

    The latest samples are remembered, up to ``config.memory``, and as many older ones that belonged
    to no ticket, so that a domain of a few samples a mini-batch gathers support. When the detector
    raises an alarm, :func:`discover` looks at them, and again until twice ``min_support`` samples
    have come or it finds a cluster; the detector starts afresh. Without an alarm it looks every few
    mini-batches. A new cluster is described anew as more of its samples arrive, until it has as
    many as the memory holds.

    Args:
        known: the bank's tickets; new clusters are added to a copy, :attr:`known`.
        config: options.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> x = torch.randn(400, 8, generator=draw)
        >>> known = KnownTickets()
        >>> known.learn(x[:200])
        >>> online = OnlineDiscovery(known)
        >>> [online.update(part).found is not None for part in x[200:].split(50)]
        [False, False, False, False]
        >>> [online.update(part + 20).found is not None for part in x[200:300].split(50)]
        [True, False]
    """

    _memory: torch.Tensor
    _strays: torch.Tensor
    _surprise: torch.Tensor

    def __init__(self, known: KnownTickets, config: DiscoveryConfig | None = None) -> None:
        self.config = config or DiscoveryConfig()
        self.known = known.copy()
        self.detector = build_detector(self.config.detector)
        self.batches = 0
        self._alarmed = 0
        self._forget(self.known.width or 0)
        self._young: dict[int, torch.Tensor] = {}
        self._fitted: dict[int, int] = {}

    @property
    def remembered(self) -> int:
        """How many samples are in memory."""
        return len(self._memory)

    def update(self, features: torch.Tensor) -> OnlineStep:
        """Take in the next mini-batch.

        Args:
            features: router features ``[batch, features]``.

        Raises:
            DataError: if the batch is empty or a sample's features are not finite.
        """
        x = as_features(features, width=self.known.width)
        if not self._memory.shape[1]:
            self._forget(x.shape[1])
        self.batches += 1
        surprise, nearest = self.known.match(x)
        verdict = self.detector.observe(float(surprise.log1p().median()))
        self._remember(x, surprise)
        found = None
        if verdict.shift:
            self.detector.reset()
            self._alarmed = ALERT * self.config.min_support
        if self._alarmed > 0 or self.batches % self.config.check_every == 0:
            found = self._decide()
        self._alarmed -= len(x)
        if found is not None:
            ids = found.ticket_ids[-len(x) :]
            if len(ids) < len(x):
                ids = np.concatenate([np.full(len(x) - len(ids), UNASSIGNED), ids])
            return OnlineStep(ids, verdict, found)
        ids = np.where(surprise.numpy() > self.config.far, UNASSIGNED, nearest.numpy())
        self._nurse(x, ids)
        return OnlineStep(ids, verdict, None)

    def _remember(self, x: torch.Tensor, surprise: torch.Tensor) -> None:
        """Take in the latest samples; of those that make room for them keep what has no ticket."""
        memory, surprises = torch.cat([self._memory, x]), torch.cat([self._surprise, surprise])
        keep = self.config.memory
        strays = memory[:-keep][surprises[:-keep] > self.config.far]
        self._strays = torch.cat([self._strays, strays])[-keep:]
        self._memory, self._surprise = memory[-keep:], surprises[-keep:]

    def _decide(self) -> Discovery | None:
        """Look at what is remembered; if it holds new clusters, add them and start afresh."""
        whole = torch.cat([self._strays, self._memory])
        if len(whole) < self.config.min_support:
            return None
        found = discover(whole, self.known, self.config)
        if not found.new and not found.capped:
            return None
        for ticket in found.new:
            members = whole[torch.from_numpy(found.members(ticket))]
            self.known.learn(members)
            self._young[ticket] = members
            self._fitted[ticket] = len(members)
        older = len(self._strays)
        self._forget(whole.shape[1])
        self.detector.reset()
        self._alarmed = 0
        ids = found.ticket_ids[older:]
        return replace(found, ticket_ids=ids, outliers=int((ids == UNASSIGNED).sum()))

    def _forget(self, width: int) -> None:
        """Remember nothing."""
        self._memory = torch.empty(0, width, dtype=torch.float64)
        self._strays = torch.empty(0, width, dtype=torch.float64)
        self._surprise = torch.empty(0, dtype=torch.float64)

    def _nurse(self, x: torch.Tensor, ids: np.ndarray) -> None:
        """Describe young clusters anew whenever they have grown by half."""
        for ticket in list(self._young):
            mine = torch.from_numpy(np.flatnonzero(ids == ticket))
            members = torch.cat([self._young[ticket], x[mine]])
            self._young[ticket] = members
            if len(members) >= 1.5 * self._fitted[ticket]:
                self.known.replace(ticket, members)
                self._fitted[ticket] = len(members)
                if len(members) >= self.config.memory:
                    del self._young[ticket]
