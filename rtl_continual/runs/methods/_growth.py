"""Growth without domain names: which tickets an experience needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from rtl_continual.discovery import (
    Discovery,
    DiscoveryConfig,
    KnownTickets,
    build_clusterer,
    build_detector,
    discover,
    merge_proposals,
)
from rtl_continual.routing import FeatureMixture
from rtl_continual.streams import ImageSet
from rtl_continual.tickets import Ticket, TicketBank

__all__ = ["Growth"]

MINI_BATCH = 32
"""Images in each mini-batch in which delays are counted."""


class Growth:
    """Discovery over the experiences of a run, and what it is worth afterwards.

    Args:
        bank: the run's bank.
        config: options.

    Attributes:
        by_features: groups are domains; otherwise they are groups of classes.
    """

    def __init__(self, bank: TicketBank, config: DiscoveryConfig) -> None:
        self.bank = bank
        self.config = config
        self.known = KnownTickets()
        self.seconds, self.training_seconds = 0.0, 0.0
        self._detector = build_detector(config.detector)
        self._features = torch.empty(0)
        self._found: list[Discovery] = []
        self._hidden: list[np.ndarray] = []
        self._targets = np.empty(0, np.int64)
        self._learned: list[tuple[np.ndarray, np.ndarray]] = []
        self.by_features = build_clusterer(config.clusterer).by_features
        self._alarms: list[int | None] = []

    def look(self, features: torch.Tensor, data: ImageSet) -> Discovery:
        """Decide about an experience. Its domains are kept for :meth:`facts` alone.

        Args:
            features: router features of its samples ``[samples, features]``.
            data: the experience.

        Raises:
            DataError: if the data set is empty or an image's features are not finite.
        """
        self._features = features.cpu()
        start = time.process_time()
        self._alarms.append(self._first_alarm())
        found = discover(self._features, self.known, self.config, targets=data.targets)
        self.seconds += time.process_time() - start
        self._found.append(found)
        self._hidden.append(data.domains)
        self._targets = data.targets
        return found

    def _first_alarm(self) -> int | None:
        """The mini-batch of the last experience, counted from 0, at which the detector alarms."""
        if not len(self.known) or not len(self._features):
            return None
        self._detector.reset()
        for number, batch in enumerate(self._features.split(MINI_BATCH)):
            if self._detector.update(batch, self.known).shift:
                return number
        return None

    def commit(
        self, tickets: Sequence[Ticket], groups: Sequence[np.ndarray], *, seconds: float
    ) -> None:
        """Tickets for groups of rows of the last experience are in the bank.

        Args:
            tickets: in the order of their ids.
            groups: rows of each.
            seconds: of processor time that their training took.
        """
        self.training_seconds += seconds
        start = time.process_time()
        for ticket, rows in zip(tickets, groups, strict=True):
            features = self._features[torch.from_numpy(rows)]
            self.known.add(FeatureMixture(ticket.statistics), features)
            self._learned.append((self._hidden[-1][rows], self._targets[rows]))
        self.seconds += time.process_time() - start

    def class_counts(self, domains: int, classes: int) -> np.ndarray:
        """Images that each ticket was learned from ``[tickets, domains, classes]``."""
        counts = np.zeros((len(self._learned), domains, classes), dtype=np.int64)
        for ticket, places in enumerate(self._learned):
            np.add.at(counts[ticket], places, 1)
        return counts

    def facts(self) -> dict[str, Any]:
        """Clusters found, agreement with the hidden domains, alarms, delays, look-alikes."""
        served: set[int] = set()
        false_alarms, detector_alarms, delays = 0, 0, []
        for found, hidden, alarm in zip(self._found, self._hidden, self._alarms, strict=True):
            unknown = np.flatnonzero(~np.isin(hidden, list(served)))
            is_new = len(unknown) >= self.config.min_support
            if served:
                begin = int(unknown[0]) // MINI_BATCH if is_new else 0
                if is_new:
                    delays.append(None if alarm is None else max(alarm - begin, 0) + 1)
                else:
                    detector_alarms += alarm is not None
            for ticket in found.new:
                domain = int(np.bincount(hidden[found.members(ticket)]).argmax())
                false_alarms += domain in served
                served.add(domain)
        assigned = np.concatenate([found.ticket_ids for found in self._found])
        masks = [ticket.mask for ticket in self.bank]
        return {
            "clusters_found": len(self.known),
            "adjusted_rand_index": float(
                adjusted_rand_score(np.concatenate(self._hidden), assigned)
            ),
            "false_alarms": false_alarms,
            "unassigned": int((assigned < 0).sum()),
            "beyond_cap": sum(found.capped for found in self._found),
            "delay_in_mini_batches": delays,
            "detector_false_alarms": detector_alarms,
            "mini_batch": MINI_BATCH,
            "seconds": round(self.seconds, 3),
            "share_of_training": self._share_of_training(),
            "merge_proposals": [asdict(p) for p in merge_proposals(masks, self.known)],
        }

    def _share_of_training(self) -> float | None:
        """A look at an experience over the training of a ticket, both in processor time."""
        if not self.training_seconds:
            return None
        look = self.seconds / len(self._found)
        return round(look / (self.training_seconds / len(self.bank)), 4)
