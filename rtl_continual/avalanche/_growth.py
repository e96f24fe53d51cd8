"""Growth inside the strategy: an experience taken apart into the clusters that need tickets."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from rtl_continual.avalanche._batches import ExperienceCache
from rtl_continual.avalanche._unfinished import cluster_name
from rtl_continual.discovery import Discovery, DiscoveryConfig, KnownTickets, discover
from rtl_continual.routing import FeatureMixture
from rtl_continual.tickets import TicketBank

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

    def split(
        self, experience: Any, make_loader: Callable[[Dataset[Any]], DataLoader[Any]]
    ) -> list[Any]:
        """Copies of an experience, each with the samples of one new cluster.

        The domain's name is taken off: a cluster is called by its number.

        Args:
            experience: what has arrived.
            make_loader: of its samples in their own order.

        Raises:
            DataError: if samples cannot be used.
        """
        where = f"training data of '{cluster_name(experience)}'"
        loader = make_loader(experience.dataset.eval())
        cache = ExperienceCache(self.bank, loader, where, keep=False, budget=0)
        self.found = discover(
            cache.features, self._known, self.config, targets=cache.targets.cpu().numpy()
        )
        parts = []
        for ticket in self.found.new:
            rows = self.found.members(ticket)
            part = copy.copy(experience)
            part._dataset = experience.dataset.subset(rows.tolist())
            part.domain, part.cluster = None, f"cluster {ticket}"
            parts.append(part)
            self._features.append(cache.features[torch.from_numpy(rows).to(cache.features.device)])
        return parts

    def commit(self) -> None:
        """The ticket of the next cluster found has joined the bank, as its last one."""
        mixture = FeatureMixture(self.bank[len(self.bank) - 1].statistics)
        self._known.add(mixture, self._features.pop(0))

    def forget(self) -> None:
        """Leave out the clusters whose tickets were not finished."""
        self._features.clear()
