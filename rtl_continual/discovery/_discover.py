"""Which tickets does this data need? The decision for a data set as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rtl_continual.discovery._edges import find_edge
from rtl_continual.discovery._features import as_features
from rtl_continual.discovery._gap import find_gap
from rtl_continual.discovery._joining import COMPARED
from rtl_continual.discovery._known import KnownTickets
from rtl_continual.discovery._registry import (
    ClustererSection,
    DetectorSection,
    build_clusterer,
)
from rtl_continual.discovery._space import principal_space
from rtl_continual.discovery.gaussian_mixture import GaussianMixtureConfig
from rtl_continual.discovery.page_hinkley import PageHinkleyConfig

__all__ = ["UNASSIGNED", "Arrival", "Discovery", "DiscoveryConfig", "discover"]

UNASSIGNED = -1
"""The cluster of a sample that belongs nowhere."""

GAP_AXES = 48
"""Principal axes in which a group is compared with a ticket.

In 24 a piece of one domain hides behind another: 0.09 of the clear pictures' ticket then lies on
the side of those at night, in 48 0.01.
"""

MAX_VALLEY = 0.3
"""A group in a ticket's range is apart from it if the valley between them is deeper.

Between a ticket and another domain it is 0.00 to 0.14, between a ticket and one of its own classes
0.52 to 1.00 (all pairs of both streams, seeds 10 and 11).
"""


class DiscoveryConfig(BaseModel):
    """When a ticket appears.

    The defaults of the thresholds were derived from held-out samples of known domains on two
    streams (``digits`` and ``photos``); ``docs/growth.md`` has the numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clusterer: ClustererSection = Field(
        default_factory=GaussianMixtureConfig, description="how new samples are grouped"
    )
    detector: DetectorSection = Field(
        default_factory=PageHinkleyConfig, description="what watches a stream of mini-batches"
    )
    min_support: int = Field(50, ge=2, description="no ticket for fewer samples than this")
    max_tickets: int = Field(64, ge=1, description="the bank never grows beyond this")
    outside: float = Field(
        8.0,
        gt=0,
        description="a sample is outside a ticket if its surprise is above this; held-out samples "
        "of known domains: 1 to 14 in 100 are",
    )
    far: float = Field(
        20.0,
        gt=0,
        description="a group of outside samples whose median surprise is above this is new; "
        "held-out samples of known domains reach 6 to 23 at most",
    )
    outside_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="a group of outside samples is new if more than this share of all that is "
        "nearest to its ticket is outside; of the worst class of a known domain, fewer are",
    )
    max_leak: float = Field(
        0.07,
        ge=0,
        lt=1,
        description="a group inside a ticket's range is new only if at most this share of the "
        "ticket's own samples lies on its side of the gap; other domains leave 0.00 to 0.04 "
        "there, a ticket's own classes 0.10 and more",
    )
    hold_back: float = Field(
        0.33,
        ge=0,
        le=0.5,
        description="where there are labels, a piece of another domain within this share of an "
        "experience's end waits for the next one, and a piece of a known domain within this share "
        "of its beginning founds no ticket; 0 is off",
    )
    memory: int = Field(
        512,
        ge=4,
        description="online: so many of the latest samples are kept to decide on, and as many "
        "older ones that belong to no ticket; at least min_support",
    )
    check_every: int = Field(
        8, ge=1, description="online: look for new groups every so many mini-batches, alarm or not"
    )

    @model_validator(mode="after")
    def _memory_holds_a_cluster(self) -> Self:
        if self.memory < self.min_support:
            raise ValueError(
                f"memory: {self.memory} is below min_support: {self.min_support}, so that no "
                "stream of mini-batches could ever bring a ticket; raise memory"
            )
        return self


@dataclass(frozen=True)
class Arrival:
    """How an experience's samples arrived: in the order of their rows.

    Args:
        waiting: so many of the first ones come from the experience before, where they waited.
        last: no experience follows, so that nothing can wait.
    """

    waiting: int = 0
    last: bool = False


@dataclass(frozen=True)
class Discovery:
    """The answer for a data set.

    Args:
        ticket_ids: for each sample the ticket that serves it, ``int64 [samples]``; new tickets go
            on counting where the known ones end; :data:`UNASSIGNED` for outliers.
        new: ids of the tickets that the data need beyond the known ones.
        outliers: samples left unassigned.
        capped: groups that would have become tickets but for ``max_tickets``.
        held: rows of the samples that wait for the next experience; unassigned, but no outliers.
    """

    ticket_ids: np.ndarray
    new: tuple[int, ...]
    outliers: int
    capped: int = 0
    held: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def members(self, ticket: int) -> np.ndarray:
        """Rows of the samples that a ticket serves."""
        return np.flatnonzero(self.ticket_ids == ticket)


def discover(
    features: torch.Tensor,
    known: KnownTickets,
    config: DiscoveryConfig | None = None,
    *,
    targets: np.ndarray | None = None,
    arrival: Arrival | None = None,
) -> Discovery:
    """Decide which samples belong to existing tickets and which form new clusters.

    Samples are grouped, and each group that is large enough and far enough away from every ticket
    is new. A domain can lie inside the range of a broader one (fog is a clear picture with little
    contrast); such a group is new if a clear gap separates it from the ticket's own samples and
    hardly any of those lie on its side. Without labels the samples outside every ticket and those
    inside each one's range are grouped apart from each other. Last, every sample goes where its
    likelihood is highest, or nowhere if it is outside of everything.

    A change of the class mix makes no ticket: a sample is judged by itself against the ticket's
    whole range, and a class that the ticket knows has the ticket's own samples around it.

    Where one domain fades into the next, an experience begins with samples of the domain before and
    ends with some of the next one. Those at the end are too few to be told from a rare look of the
    domain they touch. So with ``arrival`` and labels, a piece that stands apart at the end waits:
    it is to be put in front of the next experience, and is decided together with that. A piece of
    a known domain at the beginning founds no ticket.

    Args:
        features: router features ``[samples, features]``.
        known: the bank's tickets; not changed.
        config: options.
        targets: class labels ``[samples]``, where at hand.
        arrival: for samples in the order of their arrival; without it the order says nothing.

    Raises:
        DataError: without samples, or if a sample's features are not finite; the message names it.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> x = torch.randn(400, 8, generator=draw)
        >>> x[300:] += 20
        >>> found = discover(x, KnownTickets())
        >>> found.new, [len(found.members(i)) for i in found.new]
        ((0, 1), [300, 100])
    """
    config = config or DiscoveryConfig()
    x = as_features(features, width=known.width)
    search = _Search(x, known, config, targets)
    if arrival is not None:
        search.look_at_ends(arrival)
    if not len(known):
        search.look_everywhere()
    elif search.within_classes:
        search.look_at_groups()
        search.look_outside()
    else:
        search.look_outside()
        search.look_inside()
    return search.result()


class _Search:
    """One data set under examination."""

    def __init__(
        self,
        x: torch.Tensor,
        known: KnownTickets,
        config: DiscoveryConfig,
        targets: np.ndarray | None,
    ) -> None:
        self.x = x
        self.config = config
        self.targets = None if targets is None else np.asarray(targets)
        self.clusterer = build_clusterer(config.clusterer)
        self.first_new = len(known)
        self.old, self.known = known, known.copy()
        self.within_classes = targets is not None and self.clusterer.by_features
        self.capped = 0
        self.founders: dict[int, np.ndarray] = {}
        self.founding = np.ones(len(x), dtype=bool)
        self.held = np.empty(0, dtype=np.int64)

    def look_at_ends(self, arrival: Arrival) -> None:
        """Keep pieces of neighbouring domains from founding a ticket."""
        count = int(self.config.hold_back * (len(self.x) - arrival.waiting))
        if not self.within_classes or not count:
            return
        x, targets = self.x.numpy(), self.targets
        assert targets is not None
        if not arrival.last:
            self.held = find_edge(x, targets, count)
            self.founding[self.held] = False
        if self.first_new:
            # Seen from behind, what is left over of the domain before comes last.
            order = np.roll(np.flatnonzero(self.founding), -arrival.waiting)[::-1]
            old = order[find_edge(x[order], targets[order], count)]
            self.founding[old] = len(old) > 0 and self._is_new(old)

    def look_everywhere(self) -> None:
        """Without tickets every group is new."""
        for rows in self._groups(np.flatnonzero(self.founding)):
            self._add(rows)

    def look_outside(self) -> None:
        """Groups of samples outside every ticket."""
        surprise, nearest = (found.numpy() for found in self.known.match(self.x))
        outside = self.founding & (surprise > self.config.outside)
        if outside.sum() < self.config.min_support:
            return
        for rows in self._groups(np.flatnonzero(outside)):
            ticket = int(np.bincount(nearest[rows]).argmax())
            if ticket >= self.first_new:
                continue  # the fringe of a group that was found just now
            beside = self.founding & (nearest == ticket)
            share = outside[beside].mean()
            if np.median(surprise[rows]) > self.config.far or share > self.config.outside_share:
                self._add(rows)

    def look_at_groups(self) -> None:
        """Groups of the whole data set, each new if it lies outside of its ticket or apart from it.

        With labels groups differ within classes, so the known and the new fall apart by
        themselves. To leave the known out first would cut pieces off the new domains.
        """
        for rows in self._groups(np.flatnonzero(self.founding)):
            if self._is_new(rows):
                self._add(rows)

    def _is_new(self, rows: np.ndarray) -> bool:
        """Whether a group lies outside of every ticket, or most of it apart from its nearest."""
        here = self.x[torch.from_numpy(rows)]
        surprise, nearest = (found.numpy() for found in self.old.match(here))
        outside = surprise > self.config.outside
        far = np.median(surprise) > self.config.far
        # Known samples that a few outliers have swept along are no support.
        if (far or outside.mean() > self.config.outside_share) and (
            outside.sum() >= self.config.min_support
        ):
            return True
        # Known domains that arrive shuffled can form one group: none of its parts stands apart.
        parts = [(rows[nearest == ticket], int(ticket)) for ticket in np.unique(nearest)]
        apart = sum(
            len(part)
            for part, ticket in parts
            if len(part) >= COMPARED and self._is_apart(part, ticket)
        )
        return 2 * apart > len(rows)

    def look_inside(self) -> None:
        """Groups within a known ticket's range, but apart from its own samples."""
        nearest = self.known.match(self.x)[1].numpy()
        for ticket in range(self.first_new):
            for group in self._groups(np.flatnonzero(self.founding & (nearest == ticket))):
                if self._is_apart(group, ticket):
                    self._add(group)

    def _is_apart(self, rows: np.ndarray, ticket: int) -> bool:
        """Whether a gap separates a group from a ticket's own samples, and few of those leak."""
        here = self.x[torch.from_numpy(rows)].numpy()
        # As many of the ticket's samples as there are new ones, so that both shape the axes alike.
        own = self.known.samples[ticket].numpy()[: max(len(here), self.config.min_support)]
        z = principal_space(np.concatenate([here, own]), axes=GAP_AXES)
        gap = find_gap(z[: len(here)], z[len(here) :])
        return gap.valley < MAX_VALLEY and gap.leak <= self.config.max_leak

    def _groups(self, rows: np.ndarray) -> list[np.ndarray]:
        """Groups with enough support among some rows, largest first."""
        if len(rows) < self.config.min_support:
            return []
        targets = None if self.targets is None else self.targets[rows]
        labels = self.clusterer.cluster(self.x[torch.from_numpy(rows)], targets)
        groups = [rows[labels == i] for i in range(int(labels.max()) + 1)]
        return [group for group in groups if len(group) >= self.config.min_support]

    def _add(self, rows: np.ndarray) -> None:
        if len(self.known) >= self.config.max_tickets:
            self.capped += 1
            self.founding[rows] = False  # so that a later look does not count the group again
            return
        self.founders[len(self.known)] = rows
        self.known.learn(self.x[torch.from_numpy(rows)])

    def result(self) -> Discovery:
        """Every sample where its likelihood is highest; new tickets without support are dropped."""
        ids = np.full(len(self.x), UNASSIGNED, dtype=np.int64)
        if len(self.known):
            surprise, nearest = (found.numpy() for found in self.known.match(self.x))
            ids = np.where(surprise > self.config.far, UNASSIGNED, nearest)
        if not self.clusterer.by_features:
            for ticket, rows in self.founders.items():
                ids[rows] = ticket
        ids[self.held] = UNASSIGNED
        new: list[int] = []
        for ticket in range(self.first_new, len(self.known)):
            rows = ids == ticket
            if rows.sum() >= self.config.min_support:
                ids[rows] = self.first_new + len(new)
                new.append(self.first_new + len(new))
            else:
                ids[rows] = UNASSIGNED
        outliers = int((ids == UNASSIGNED).sum()) - len(self.held)
        return Discovery(ids, tuple(new), outliers, self.capped, self.held)
