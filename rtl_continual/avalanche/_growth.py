"""Growth inside the strategy: which clusters of an experience need tickets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rtl_continual.avalanche._batches import ExperienceCache
from rtl_continual.avalanche._unfinished import cluster_name
from rtl_continual.discovery import Discovery, DiscoveryConfig, KnownTickets, discover
from rtl_continual.routing import FeatureMixture
from rtl_continual.tickets import Ticket, TicketBank

__all__ = ["ExperienceGrowth"]


class ExperienceGrowth:
    """Which clusters of an experience need tickets.

    Args:
        bank: the strategy's bank; tickets that it holds already are known.
        config: options of discovery.
    """

    def __init__(self, bank: TicketBank, config: DiscoveryConfig | None) -> None:
        self.bank = bank
        self.config = config or DiscoveryConfig()
        self.found: Discovery | None = None
        self._known = KnownTickets([FeatureMixture(t.statistics) for t in bank])
        self._features: list[torch.Tensor] = []

    def look(
        self, experience: Any, make_loader: Callable[[Dataset[Any]], DataLoader[Any]]
    ) -> Any | None:
        """A copy of an experience with the samples of its new clusters, one after the other.

        Its ``clusters`` are their sizes by name. The domain's name is taken off: a cluster is
        called by its number.

        Args:
            experience: what has arrived.
            make_loader: of its samples in their own order.

        Returns:
            The copy, or ``None`` if there is nothing new.

        Raises:
            DataError: if samples cannot be used.
        """
        where = f"training data of '{cluster_name(experience)}'"
        loader = make_loader(experience.dataset.eval())
        cache = ExperienceCache(self.bank, loader, where, keep=False, budget=0)
        self.found = discover(
            cache.features, self._known, self.config, targets=cache.targets.cpu().numpy()
        )
        if not self.found.new:
            return None
        groups = [self.found.members(ticket) for ticket in self.found.new]
        self._features = [
            cache.features[torch.from_numpy(r).to(cache.features.device)] for r in groups
        ]
        part = copy.copy(experience)
        part._dataset = experience.dataset.subset(np.concatenate(groups).tolist())
        part.domain = None
        part.clusters = {
            f"cluster {ticket}": len(rows)
            for ticket, rows in zip(self.found.new, groups, strict=True)
        }
        return part

    def commit(self, tickets: Sequence[Ticket]) -> None:
        """The tickets of the new clusters have joined the bank."""
        for ticket, features in zip(tickets, self._features, strict=True):
            self._known.add(FeatureMixture(ticket.statistics), features)
        self._features.clear()

    def forget(self) -> None:
        """Leave out the clusters whose tickets were not finished."""
        self._features.clear()
