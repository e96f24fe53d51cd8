"""Discovery on a stream of mini-batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from rtl_continual.discovery._detector import Verdict
from rtl_continual.discovery._discover import UNASSIGNED, Discovery, DiscoveryConfig, discover
from rtl_continual.discovery._features import as_features
from rtl_continual.discovery._known import KnownTickets, fit_mixture
from rtl_continual.discovery._registry import build_detector

__all__ = ["OnlineDiscovery", "OnlineStep"]


class OnlineStep(NamedTuple):
    """What came of a mini-batch.

    ``ticket_ids`` is ``int64 [batch]``, :data:`UNASSIGNED` where no ticket fits yet; ``verdict``
    is the detector's; ``found`` is the decision about the ``len(found.ticket_ids)`` latest
    samples if new clusters were found, else ``None``.
    """

    ticket_ids: np.ndarray
    verdict: Verdict
    found: Discovery | None


class OnlineDiscovery:
    """Watches a stream and decides, when there is enough evidence, that a new cluster began.

    The latest samples are remembered, up to ``config.memory``; older ones are forgotten. When the
    detector raises an alarm (and every few mini-batches without one), :func:`discover` looks at
    them. A new cluster is described anew as more of its samples arrive, until it has as many as
    the memory holds.

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

    def __init__(self, known: KnownTickets, config: DiscoveryConfig | None = None) -> None:
        self.config = config or DiscoveryConfig()
        self.known = known.copy()
        self.detector = build_detector(self.config.detector)
        self.batches = 0
        self._memory: torch.Tensor | None = None
        self._young: dict[int, torch.Tensor] = {}
        self._fitted: dict[int, int] = {}

    @property
    def remembered(self) -> int:
        """How many samples are in memory."""
        return 0 if self._memory is None else len(self._memory)

    def update(self, features: torch.Tensor) -> OnlineStep:
        """Take in the next mini-batch.

        Args:
            features: router features ``[batch, features]``.

        Raises:
            DataError: if the batch is empty or a sample's features are not finite.
        """
        x = as_features(features, width=self.known.width)
        self.batches += 1
        surprise, nearest = self.known.match(x)
        verdict = self.detector.observe(float(surprise.log1p().median()))
        memory = x if self._memory is None else torch.cat([self._memory, x])
        self._memory = memory[-self.config.memory :]
        found = None
        if verdict.shift or self.batches % self.config.check_every == 0:
            found = self._decide()
        if found is not None:
            ids = found.ticket_ids[-len(x) :]
            if len(ids) < len(x):
                ids = np.concatenate([np.full(len(x) - len(ids), UNASSIGNED), ids])
            return OnlineStep(ids, verdict, found)
        ids = np.where(surprise.numpy() > self.config.far, UNASSIGNED, nearest.numpy())
        self._nurse(x, ids)
        return OnlineStep(ids, verdict, None)

    def _decide(self) -> Discovery | None:
        """Look at the memory; if it holds new clusters, add them and start afresh."""
        assert self._memory is not None
        if len(self._memory) < self.config.min_support:
            return None
        found = discover(self._memory, self.known, self.config)
        if not found.new:
            return None
        for ticket in found.new:
            members = self._memory[torch.from_numpy(found.members(ticket))]
            self.known.add(fit_mixture(members), members)
            self._young[ticket] = members
            self._fitted[ticket] = len(members)
        self._memory = None
        self.detector.reset()
        return found

    def _nurse(self, x: torch.Tensor, ids: np.ndarray) -> None:
        """Describe young clusters anew whenever they have grown by half."""
        for ticket in list(self._young):
            mine = torch.from_numpy(np.flatnonzero(ids == ticket))
            members = torch.cat([self._young[ticket], x[mine]])
            self._young[ticket] = members
            if len(members) >= 1.5 * self._fitted[ticket]:
                self.known.replace(ticket, fit_mixture(members), members)
                self._fitted[ticket] = len(members)
                if len(members) >= self.config.memory:
                    del self._young[ticket]
