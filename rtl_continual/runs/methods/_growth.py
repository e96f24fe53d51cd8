"""Growth without domain names: which tickets an experience needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from rtl_continual.discovery import Discovery, DiscoveryConfig, KnownTickets, discover
from rtl_continual.routing import FeatureMixture
from rtl_continual.streams import ImageSet
from rtl_continual.tickets import Ticket, TicketBank

__all__ = ["Growth"]


class Growth:
    """Discovery over the experiences of a run, and what it is worth afterwards.

    Args:
        bank: the run's bank.
        config: options.
    """

    def __init__(self, bank: TicketBank, config: DiscoveryConfig) -> None:
        self.bank = bank
        self.config = config
        self.known = KnownTickets()
        self._features = torch.empty(0)
        self._assigned: list[np.ndarray] = []
        self._hidden: list[np.ndarray] = []
        self._new: list[list[np.ndarray]] = []

    def look(self, data: ImageSet) -> Discovery:
        """Decide about an experience. Its domains are kept for :meth:`facts` alone.

        Raises:
            DataError: if the data set is empty or an image's features are not finite.
        """
        self._features = _router_features(self.bank, data)
        found = discover(self._features, self.known, self.config, targets=data.targets)
        self._assigned.append(found.ticket_ids)
        self._hidden.append(data.domains)
        self._new.append([found.members(ticket) for ticket in found.new])
        return found

    def commit(self, ticket: Ticket, rows: np.ndarray) -> None:
        """A ticket for some samples of the last experience is in the bank."""
        features = self._features[torch.from_numpy(rows)]
        self.known.add(FeatureMixture(ticket.statistics), features)

    def facts(self) -> dict[str, Any]:
        """Clusters found, agreement with the hidden domains, tickets for domains that had one."""
        served: set[int] = set()
        alarms = 0
        for groups, hidden in zip(self._new, self._hidden, strict=True):
            for rows in groups:
                domain = int(np.bincount(hidden[rows]).argmax())
                alarms += domain in served
                served.add(domain)
        assigned, hidden = np.concatenate(self._assigned), np.concatenate(self._hidden)
        return {
            "clusters_found": len(self.known),
            "adjusted_rand_index": float(adjusted_rand_score(hidden, assigned)),
            "false_alarms": alarms,
            "unassigned": int((assigned < 0).sum()),
        }


@torch.no_grad()
def _router_features(bank: TicketBank, data: ImageSet) -> torch.Tensor:
    parts = []
    for start in range(0, len(data), 256):
        images, _ = data.batch(range(start, min(start + 256, len(data))))
        out = bank.backbone.run_trunk(images.to(bank.backbone.mean.device))
        parts.append(out.router_features.cpu())
    return torch.cat(parts) if parts else torch.empty(0, 0)
