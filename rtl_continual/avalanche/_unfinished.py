"""A ticket between the start and the end of its experience."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch.utils.data import DataLoader

from rtl_continual.avalanche._batches import CachedLoader, EpochOrder, ExperienceCache
from rtl_continual.routing import FeatureMixture
from rtl_continual.tickets import Ticket, TicketBank, TicketInfo
from rtl_continual.training import (
    TicketConfig,
    TicketLearner,
    balance_classes,
    choose_start,
    finish_head,
    start_head,
    watch_collapse,
)

__all__ = ["UnfinishedTicket", "cluster_name"]


class UnfinishedTicket:
    """An experience's ticket while it is learned, prepared as ``learn_ticket`` does it.

    Args:
        bank: the bank it will join.
        experience: names the ticket; nothing else is read from it.
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
        order: EpochOrder,
        config: TicketConfig,
        *,
        epochs: int,
        seed: int,
        cache_trunk: bool,
    ) -> None:
        cluster = cluster_name(experience)
        self.seed = seed
        self.config = config
        self.order = order
        self.cache = ExperienceCache(
            bank,
            loader,
            f"training data of '{cluster}'",
            keep=cache_trunk,
            budget=config.cache_bytes,
        )
        parent = choose_start(bank, self.cache, config, seed=seed)
        self.learner = TicketLearner(
            bank,
            config,
            total_steps=len(order) * epochs,
            seed=seed,
            parent=parent,
            features=self.cache.features,
        )
        samples = len(self.cache.targets)
        named = isinstance(getattr(experience, "domain", None), str)
        self.info = TicketInfo(
            name=_unused(cluster, bank),
            parent=None if parent is None else parent.id,
            cluster=cluster,
            sparsity_target=self.learner.target,
            samples=samples,
            domain_counts={cluster: samples} if named else {},
            provenance={"seed": seed, "config": config.model_dump()},
        )
        start_head(self.learner, self.cache)
        balance_classes(self.learner, self.cache)
        watch_collapse(self.learner, self.cache, ticket=self.info.name)

    @property
    def cached_loader(self) -> CachedLoader:
        """Training batches of trunk activations."""
        return CachedLoader(self.cache, self.order)

    @cached_property
    def mixture(self) -> FeatureMixture:
        """The summary of its router features that the finished ticket will carry."""
        return FeatureMixture.fit(
            self.cache.features, components=self.config.mixture_components, seed=self.seed
        )

    def finish(self) -> Ticket:
        """The ticket, ready for the bank.

        Raises:
            DataError: if training diverged.
        """
        finish_head(self.learner, self.cache)
        return self.learner.finish(self.cache.features, self.info, seed=self.seed)


def cluster_name(experience: Any) -> str:
    """A training experience's name: its cluster's, else its domain's, else its number."""
    cluster = getattr(experience, "cluster", None)
    if isinstance(cluster, str):
        return cluster
    domain = getattr(experience, "domain", None)
    return domain if isinstance(domain, str) else f"experience-{experience.current_experience}"


def _unused(name: str, bank: TicketBank) -> str:
    """``name``, or ``name-2``, ``name-3``, ... if the bank has it already."""
    number, candidate = 1, name
    while candidate in bank.names:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
