"""Growth inside the strategy: which clusters of an experience need tickets."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from rtl_continual.avalanche._batches import ExperienceCache, check_sample
from rtl_continual.avalanche._unfinished import cluster_name
from rtl_continual.discovery import Arrival, Discovery, DiscoveryConfig, KnownTickets, discover
from rtl_continual.errors import DataError
from rtl_continual.routing import FeatureMixture
from rtl_continual.tickets import Ticket, TicketBank

__all__ = ["ExperienceGrowth"]


class ExperienceGrowth:
    """Which clusters of an experience need tickets.

    Args:
        bank: the strategy's bank; tickets that it holds already are known.
        config: options of discovery.

    Attributes:
        waiting: a copy of the experience before with the samples that wait for the next one.
    """

    def __init__(self, bank: TicketBank, config: DiscoveryConfig | None) -> None:
        self.bank = bank
        self.config = config or DiscoveryConfig()
        self.found: Discovery | None = None
        self.waiting: Any | None = None
        self._known = KnownTickets([FeatureMixture(t.statistics) for t in bank])
        self._next_waiting: Any | None = None

    def look(
        self, experience: Any, make_loader: Callable[[Dataset[Any]], DataLoader[Any]]
    ) -> Any | None:
        """A copy of an experience with the samples of its new clusters, one after the other.

        Its ``clusters`` are their sizes by name. The domain's name is taken off: a cluster is
        called by its number. Samples that wait come first; those that have to wait now are left
        out, see :meth:`settle`.

        Args:
            experience: what has arrived; what waits itself, to decide on it without any other.
            make_loader: of its samples in their own order.

        Returns:
            The copy, or ``None`` if there is nothing new.

        Raises:
            DataError: if samples cannot be used.
        """
        where = f"training data of '{cluster_name(experience)}'"
        arrived, last = experience.dataset, not _has_next(experience)
        dataset, waiting = arrived, 0
        if experience is self.waiting:
            last = True
        elif self.waiting is not None:
            dataset, waiting = self.waiting.dataset.concat(arrived), len(self.waiting.dataset)
        check_sample(dataset.eval(), where)
        cache = ExperienceCache(self.bank, make_loader(dataset.eval()), where, keep=False, budget=0)
        self.found = discover(
            cache.features,
            self._known,
            self.config,
            targets=cache.targets.cpu().numpy(),
            arrival=Arrival(waiting, last),
        )
        self._next_waiting = None
        if len(self.found.held):
            self._next_waiting = copy.copy(experience)
            self._next_waiting._dataset = arrived.subset((self.found.held - waiting).tolist())
        if self.found.capped:
            warnings.warn(
                f"{where}: {self.found.capped} clusters get no ticket, as the bank may not have "
                f"more than max_tickets ({self.config.max_tickets})",
                stacklevel=3,
            )
        if not self.found.new:
            if not len(self.bank) and not len(self.found.held):
                raise DataError(
                    f"{where}: {len(dataset)} samples and no cluster of at least "
                    f"{self.config.min_support}; lower min_support"
                )
            return None
        groups = [self.found.members(ticket) for ticket in self.found.new]
        part = copy.copy(experience)
        part._dataset = dataset.subset(np.concatenate(groups).tolist())
        part.domain = None
        part.clusters = {
            f"cluster {ticket}": len(rows)
            for ticket, rows in zip(self.found.new, groups, strict=True)
        }
        return part

    def commit(self, tickets: Sequence[Ticket]) -> None:
        """The tickets of the new clusters have joined the bank."""
        for ticket in tickets:
            self._known.add(FeatureMixture(ticket.statistics))

    def settle(self) -> None:
        """The experience is done: what waited is decided, and its own samples may wait."""
        self.waiting, self._next_waiting = self._next_waiting, None


def _has_next(experience: Any) -> bool:
    """Whether an experience says that its stream goes on after it."""
    stream = getattr(experience, "origin_stream", None)
    return stream is not None and experience.current_experience + 1 < len(stream)
