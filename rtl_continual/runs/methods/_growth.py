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
    Arrival,
    Discovery,
    DiscoveryConfig,
    KnownTickets,
    build_clusterer,
    build_detector,
    discover,
    merge_proposals,
)
from rtl_continual.routing import FeatureMixture
from rtl_continual.streams import ImageSet, concatenate
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
        self._waiting: list[ImageSet] = []

    def with_waiting(self, data: ImageSet) -> ImageSet:
        """An experience with the samples in front that waited for it."""
        return concatenate([*self._waiting, data])

    def look(self, features: torch.Tensor, data: ImageSet, *, last: bool) -> Discovery:
        """Decide about an experience. Its domains are kept for :meth:`facts` alone.

        Args:
            features: router features ``[samples, features]`` of :meth:`with_waiting`.
            data: the experience alone.
            last: no experience follows, so that nothing can wait.

        Returns:
            The decision on the samples of :meth:`with_waiting`, in that order.

        Raises:
            DataError: if the data set is empty or an image's features are not finite.
        """
        self._features = features.cpu()
        start = time.process_time()
        self._alarms.append(self._first_alarm())
        waiting, whole = sum(len(part) for part in self._waiting), self.with_waiting(data)
        found = discover(
            self._features,
            self.known,
            self.config,
            targets=whole.targets,
            arrival=Arrival(waiting, last),
        )
        self.seconds += time.process_time() - start
        self._found.append(found)
        self._hidden.append(whole.domains)
        self._targets = whole.targets
        # A sample waits once at most, so all of them are the experience's own.
        self._waiting = [data.subset(found.held - waiting)] if len(found.held) else []
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
            self.known.add(FeatureMixture(ticket.statistics))
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
            unknown = np.flatnonzero(_decided(found) & ~np.isin(hidden, list(served)))
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
        # A sample that waits is counted once: where it is decided.
        decided = [_decided(found) for found in self._found]
        assigned, domains = (
            np.concatenate([part[rows] for part, rows in zip(parts, decided, strict=True)])
            for parts in ([found.ticket_ids for found in self._found], self._hidden)
        )
        masks = [ticket.mask for ticket in self.bank]
        return {
            "clusters_found": len(self.known),
            "adjusted_rand_index": float(adjusted_rand_score(domains, assigned)),
            "false_alarms": false_alarms,
            "unassigned": int((assigned < 0).sum()),
            "held_back": sum(len(found.held) for found in self._found),
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


def _decided(found: Discovery) -> np.ndarray:
    """Which samples do not wait, ``bool [samples]``."""
    decided = np.ones(len(found.ticket_ids), dtype=bool)
    decided[found.held] = False
    return decided
