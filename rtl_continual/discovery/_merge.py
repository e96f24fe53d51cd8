"""Tickets that may be one: a report, nothing is merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtl_continual.discovery._gap import find_gap
from rtl_continual.discovery._known import KnownTickets
from rtl_continual.discovery._space import principal_space
from rtl_continual.errors import DataError
from rtl_continual.tickets import Mask, corrected_jaccard

__all__ = ["MergeProposal", "merge_proposals"]


@dataclass(frozen=True)
class MergeProposal:
    """Two tickets that look alike.

    Args:
        tickets: their ids, the older one first.
        similarity: overlap of their masks beyond chance; 1 for equal masks.
        valley: of the gap between their clusters; 1 for none.
    """

    tickets: tuple[int, int]
    similarity: float
    valley: float


def merge_proposals(
    masks: Sequence[Mask],
    known: KnownTickets,
    *,
    min_similarity: float = 0.5,
    min_valley: float = 0.3,
) -> list[MergeProposal]:
    """Pairs of tickets with nearly the same mask and no clear gap between their clusters.

    Committed tickets stay as they are: this is for people to look at.

    Args:
        masks: one per ticket.
        known: the tickets' mixtures, in the same order.
        min_similarity: least overlap of the masks beyond chance (see :func:`corrected_jaccard`).
        min_valley: least density between the clusters, of the lower peak.

    Returns:
        The pairs, most similar masks first.

    Raises:
        DataError: if there are not as many masks as mixtures.
    """
    if len(masks) != len(known):
        raise DataError(f"{len(masks)} masks for {len(known)} mixtures: give both for each ticket")
    found = []
    for b in range(len(masks)):
        for a in range(b):
            similarity = corrected_jaccard(masks[a], masks[b])
            if similarity < min_similarity:
                continue
            first, second = known.samples[a].numpy(), known.samples[b].numpy()
            z = principal_space(np.concatenate([first, second]), axes=24)
            valley = find_gap(z[: len(first)], z[len(first) :]).valley
            if valley >= min_valley:
                found.append(MergeProposal((a, b), similarity, valley))
    return sorted(found, key=lambda proposal: -proposal.similarity)
