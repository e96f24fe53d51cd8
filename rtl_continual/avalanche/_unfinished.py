"""Tickets between the start and the end of their experience."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader

from rtl_continual.avalanche._batches import CachedLoader, ExperienceCache, JointOrder
from rtl_continual.routing import FeatureMixture
from rtl_continual.tickets import Ticket, TicketBank, TicketInfo
from rtl_continual.training import (
    CacheRows,
    TicketConfig,
    TicketLearner,
    finish_tickets,
    start_learners,
)

__all__ = ["UnfinishedTickets", "cluster_name", "cluster_sizes"]


class UnfinishedTickets:
    """An experience's tickets while they are learned, prepared as ``learn_tickets`` does it.

    Args:
        bank: the bank they will join.
        experience: names the tickets and says where each one's samples end; nothing else is read
            from it.
        loader: its samples in their own order, as the router will meet them.
        order: gives the training batches.
        config: options.
        epochs: passes over the data.
        seed: of everything random.
        cache_trunk: keep the trunk's activations.
    """

    def __init__(
        self,
        bank: TicketBank,
        experience: Any,
        loader: DataLoader[Any],
        order: JointOrder,
        config: TicketConfig,
        *,
        epochs: int,
        seed: int,
        cache_trunk: bool,
    ) -> None:
        self.seed = seed
        self.config = config
        self.order = order
        self.cache = ExperienceCache(
            bank,
            loader,
            f"training data of '{cluster_name(experience)}'",
            keep=cache_trunk,
            budget=config.cache_bytes,
        )
        sizes = cluster_sizes(experience, len(self.cache.targets))
        rows = torch.arange(len(self.cache.targets)).split([*sizes.values()])
        self.groups = [CacheRows(self.cache, part) for part in rows]
        named = isinstance(getattr(experience, "domain", None), str)
        self.infos = [
            TicketInfo(
                name=_unused(name, bank),
                cluster=name,
                domain_counts={name: samples} if named else {},
                provenance={"seed": seed, "config": config.model_dump()},
            )
            for name, samples in sizes.items()
        ]
        self.learners = start_learners(
            bank,
            self.groups,
            config,
            names=[info.name for info in self.infos],
            steps=[steps * epochs for steps in order.steps],
            seed=seed,
        )

    @property
    def cached_loader(self) -> CachedLoader:
        """Training batches of trunk activations."""
        return CachedLoader(self.cache, self.order)

    def learner_of(self, step: int) -> TicketLearner:
        """Whose batch the epoch's step, counted from 0, brings."""
        turns = self.order.turns
        return self.learners[turns[step] if len(self.learners) > 1 else 0]

    @cached_property
    def mixtures(self) -> list[FeatureMixture]:
        """The summaries of router features that the finished tickets will carry."""
        return [
            FeatureMixture.fit(
                group.features, components=self.config.mixture_components, seed=self.seed
            )
            for group in self.groups
        ]

    def finish(self) -> list[Ticket]:
        """The tickets, ready for the bank.

        Raises:
            DataError: if training diverged.
        """
        return finish_tickets(self.learners, self.groups, self.infos, seed=self.seed)


def cluster_sizes(experience: Any, samples: int) -> dict[str, int]:
    """An experience's clusters, whose samples lie one after the other, and their sizes."""
    clusters = getattr(experience, "clusters", None)
    return clusters if clusters else {cluster_name(experience): samples}


def cluster_name(experience: Any) -> str:
    """A training experience's name: its domain's, else its number."""
    domain = getattr(experience, "domain", None)
    return domain if isinstance(domain, str) else f"experience-{experience.current_experience}"


def _unused(name: str, bank: TicketBank) -> str:
    """``name``, or ``name-2``, ``name-3``, ... if the bank has it already."""
    number, candidate = 1, name
    while candidate in bank.names:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
