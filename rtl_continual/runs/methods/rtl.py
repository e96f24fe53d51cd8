"""Our method: a ticket per cluster over one frozen backbone, and a learned router."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from rtl_continual.backbones import backbone_flops, statistics_flops
from rtl_continual.discovery import Discovery
from rtl_continual.errors import DataError
from rtl_continual.routing import Router, Routing
from rtl_continual.runs._method import Answers, Method, MethodConfig, RunContext
from rtl_continual.runs.methods._growth import Growth
from rtl_continual.runs.methods._tickets import (
    answer,
    collapse_events,
    domain_counts,
    empty_bank,
    merged_passes,
    servable,
    serving_parameters,
    ticket_options,
)
from rtl_continual.streams import ImageSet
from rtl_continual.tasks import balanced_accuracy, confusion_matrix
from rtl_continual.tickets import Ticket, TicketInfo, similarity_scores
from rtl_continual.training import TrunkCache, commit_tickets, learn_tickets

__all__ = ["RTLMethod"]


class RTLMethod(Method[MethodConfig]):
    """Routed tickets, grown experience by experience."""

    name: ClassVar[str] = "rtl"
    summary: ClassVar[str] = "one ticket per cluster, learned router"

    def __init__(self, context: RunContext, config: MethodConfig) -> None:
        super().__init__(context, config)
        self.bank = empty_bank(context)
        self.options = ticket_options(context, self.epochs, self.batch_size)
        self._evaluation: dict[str, Any] = {}
        self._growth: Growth | None = None
        if context.sections.get("growth") == "discover":
            self._growth = Growth(self.bank, context.sections["discovery"])

    def learn(self, index: int) -> None:
        experiences = self.context.stream.experiences
        arrived = train = experiences[index].train
        if self._growth is not None:
            train = self._growth.with_waiting(arrived)
        cache = TrunkCache(self.bank, train, self.options.cache_bytes)
        if self._growth is None:
            self._add_tickets(cache, [np.arange(len(train))], [self.ticket_info(index)])
            return
        last = index == len(experiences) - 1
        found = self._growth.look(cache.features, arrived, last=last)
        self._tell(index, found)
        groups = [found.members(number) for number in found.new]
        infos = [
            replace(
                self.ticket_info(index),
                name=f"cluster {number}",
                cluster=f"cluster {number}",
                domain_counts=domain_counts(train.subset(rows), self.context.stream.domains),
            )
            for number, rows in zip(found.new, groups, strict=True)
        ]
        if groups:
            start = time.process_time()
            tickets = self._add_tickets(cache, groups, infos)
            self._growth.commit(tickets, groups, seconds=time.process_time() - start)
        if not len(self.bank):
            raise DataError(
                f"experience {index} has {len(train)} samples and no cluster of at least "
                f"{self._growth.config.min_support}; lower discovery.min_support"
            )

    def _tell(self, index: int, found: Discovery) -> None:
        """Write down what discovery made of an experience."""
        self.context.emit(
            "discovery",
            experience=index,
            new=len(found.new),
            unassigned=found.outliers,
            held_back=len(found.held),
            beyond_cap=found.capped,
        )
        if found.new:
            samples = int(np.isin(found.ticket_ids, found.new).sum())
            self.context.emit(
                "shift_detected", experience=index, clusters=len(found.new), samples=samples
            )
        if found.capped and self._growth is not None:
            most = self._growth.config.max_tickets
            self.context.emit(
                "ticket_rejected",
                experience=index,
                groups=found.capped,
                reason=f"the bank may not have more than discovery.max_tickets ({most}) tickets",
            )

    def _add_tickets(
        self, cache: TrunkCache, groups: Sequence[np.ndarray], infos: Sequence[TicketInfo]
    ) -> list[Ticket]:
        """Learn tickets for groups of rows together, and commit them."""
        first, last = len(self.bank), len(self.bank) + len(groups) - 1
        what = f"ticket {first + 1}" if first == last else f"tickets {first + 1} to {last + 1}"
        tickets, learners = learn_tickets(
            self.bank,
            cache,
            [torch.from_numpy(rows) for rows in groups],
            self.options,
            infos=infos,
            seed=self.context.seed,
            on_epoch=lambda e: self.context.advance(
                f"{what}, epoch {e['epoch'] + 1} of {self.epochs}, loss {e['loss']:.3f}"
            ),
            on_collapse=collapse_events(
                self.context, {info.name: first + i for i, info in enumerate(infos)}
            ),
        )
        commit_tickets(self.bank, tickets, learners[0].gate)
        for ticket in tickets:
            self.context.emit(
                "ticket_added",
                ticket=ticket.id,
                cluster=ticket.info.cluster,
                parent=ticket.info.parent,
                sparsity=ticket.mask.sparsity,
                samples=ticket.info.samples,
            )
        return tickets

    def ticket_info(self, index: int) -> TicketInfo:
        """What is known about the ticket of an experience before it is learned."""
        experience = self.context.stream.experiences[index]
        again = sum(e.name == experience.name for e in self.context.stream.experiences[:index])
        return TicketInfo(
            # A domain may come back; a ticket's name is its own.
            name=f"{experience.name}, {again + 1}" if again else experience.name,
            cluster=experience.name,
            domain_counts=domain_counts(experience.train, self.context.stream.domains),
            provenance={"seed": self.context.seed, "stream": self.context.stream.fingerprint},
        )

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        return answer(self.bank, images)

    def parameters(self) -> dict[str, float]:
        parts = self.context.stream.learned_domains
        if self._growth is not None:
            # With groups of classes, tickets stand in for a model of each group.
            parts = parts if self._growth.by_features else max(parts, len(self.bank))
        return serving_parameters(self.bank, parts)

    def inference_ratio(self) -> float:
        assert isinstance(self.bank.router, Router)
        backbone = self.bank.backbone
        extra = self.bank.router.flops() + statistics_flops(backbone)
        return 1 + extra / backbone_flops(backbone)["total"] + merged_passes(self.bank)

    def finish_evaluation(self, tests: dict[str, ImageSet]) -> None:
        """Compare the router with an oracle that knows each test image's domain.

        The ticket that saw most of a domain in training is that domain's right ticket. With groups
        of classes the oracle knows an image's group, and the right ticket is the one that saw most
        of its class. What nothing was learned from has none and does not count.
        """
        domains, classes = self.context.stream.domains, len(self.context.stream.classes)
        seen = self._training_counts()
        right, trained = seen.argmax(axis=0), seen.sum(axis=0) > 0
        hits, counted = 0, 0
        confusion = np.zeros((len(domains), len(self.bank)), dtype=np.int64)
        abstained = 0
        oracle: dict[str, float | None] = dict.fromkeys(domains)
        for j, images in enumerate(tests.values()):
            answers = self.predict(images)
            ids = answers.ticket_ids
            assert ids is not None
            abstained += self._abstained(ids, answers.confidence)
            confusion[j] = np.bincount(ids[ids >= 0], minlength=len(self.bank))
            own, known = right[j, images.targets], trained[j, images.targets]
            hits += int((ids[known] == own[known]).sum())
            counted += int(known.sum())
            if known.any():
                labels = answer(self.bank, images, ticket_id=own).labels
                matrix = confusion_matrix(images.targets, labels, classes)
                oracle[domains[j]] = balanced_accuracy(matrix)
        self._evaluation = {
            "router_accuracy": hits / counted,
            "router_confusion": confusion.tolist(),
            "router_abstained": abstained,
            "oracle_by_domain": oracle,
        }

    def _training_counts(self) -> np.ndarray:
        """Images that tickets were learned from ``[tickets, domains, classes]``.

        Without groups of classes a domain's images count for each of its classes.
        """
        domains, classes = self.context.stream.domains, len(self.context.stream.classes)
        if self._growth is not None and not self._growth.by_features:
            return self._growth.class_counts(len(domains), classes)
        seen = np.array([[t.info.domain_counts.get(d, 0) for d in domains] for t in self.bank])
        return np.repeat(seen[:, :, None], classes, axis=2)

    def _abstained(self, ids: np.ndarray, confidence: np.ndarray | None) -> int:
        """How often the router abstained, whether or not a fallback ticket then served.

        Where no router decides there is no confidence, and an image without a ticket is one.
        """
        router = self.bank.router
        if confidence is None or not isinstance(router, Router):
            return int((ids < 0).sum())
        chosen = torch.from_numpy(ids)[:, None]
        routing = Routing(chosen, torch.ones(chosen.shape), torch.from_numpy(confidence))
        return int(router.abstains(routing).sum())

    def details(self) -> dict[str, Any]:
        """Router, oracle, tickets and similarity, as ``docs/results-format.md`` defines them."""
        masks = [ticket.mask for ticket in self.bank]
        scores = similarity_scores(masks)
        flops = backbone_flops(self.bank.backbone)
        statistics = statistics_flops(self.bank.backbone)
        router = self.bank.router
        assert isinstance(router, Router)
        oracle = self._evaluation["oracle_by_domain"]
        return {
            "router": {
                "name": router.name,
                "accuracy": self._evaluation["router_accuracy"],
                "confusion": self._evaluation["router_confusion"],
                "abstained": self._evaluation["router_abstained"],
                "flops": router.flops(),
                "statistics_flops": statistics,
                "backbone_flops": flops["total"],
                "flops_share": (router.flops() + statistics) / flops["total"],
            },
            "oracle_router": {
                "balanced_accuracy_by_domain": oracle,
                "balanced_accuracy_domain_mean": float(
                    np.mean([value for value in oracle.values() if value is not None])
                ),
            },
            "tickets": [
                {
                    "id": ticket.id,
                    "cluster": ticket.info.cluster,
                    "parent": ticket.info.parent,
                    "domain_counts": dict(ticket.info.domain_counts),
                    "sparsity_target": ticket.info.sparsity_target,
                    "sparsity_reached": ticket.mask.sparsity,
                    "similarity": scores[ticket.id],
                    "relaxations": ticket.info.relaxations,
                    "collapse": ticket.info.provenance.get("collapse"),
                    "bytes": ticket.mask.layout.num_bytes
                    + sum(t.numel() * t.element_size() for t in ticket.tensors().values()),
                    "layer_density": ticket.mask.layer_density(),
                }
                for ticket in self.bank
            ],
            "similarity": self.bank.similarity().tolist(),
            "similarity_beyond_chance": self.bank.similarity(corrected=True).tolist(),
            "discovery": (
                self._growth.facts()
                if self._growth is not None
                else {
                    "clusters_found": len(self.bank),
                    "adjusted_rand_index": None,
                    "false_alarms": None,
                }
            ),
        }

    def save(self, folder: str) -> None:
        from rtl_continual.store import save_bank

        save_bank(servable(self.bank), folder)
