"""What the methods built on tickets share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rtl_continual.backbones import RecordedBackbone, backbone_flops
from rtl_continual.plugins import get_manager
from rtl_continual.routing import Router
from rtl_continual.runs._method import Answers, RunContext
from rtl_continual.streams import ImageSet
from rtl_continual.tasks import ClassificationConfig, build_task
from rtl_continual.tickets import TicketBank, build_executor
from rtl_continual.training import CollapseReport, OnCollapse, TicketConfig

__all__ = [
    "answer",
    "collapse_events",
    "domain_counts",
    "empty_bank",
    "servable",
    "serving_parameters",
    "ticket_options",
]


def empty_bank(context: RunContext) -> TicketBank:
    """A bank without tickets for the run's backbone and classes, with a router as configured.

    Plugins may choose another router.
    """
    classes = context.stream.classes
    options = context.sections.get("task") or ClassificationConfig()
    bank = TicketBank(context.make_backbone(), build_task(options, len(classes), classes))
    config = context.sections["router"]
    bank.router = get_manager().hook.choose_router(bank=bank, config=config)
    if "executor" in context.sections:
        bank.executor = build_executor(context.sections["executor"])
    return bank


def ticket_options(context: RunContext, epochs: int, batch_size: int) -> TicketConfig:
    """The run's ``tickets`` section with a method's own epochs and batch size."""
    tickets: TicketConfig = context.sections["tickets"]
    return tickets.model_copy(update={"epochs": epochs, "batch_size": batch_size})


def answer(
    bank: TicketBank, images: ImageSet, *, ticket_id: int | np.ndarray | None = None
) -> Answers:
    """Predict a whole set, a few hundred images at a time.

    Args:
        bank: answers.
        images: the set.
        ticket_id: overrides the router: one ticket, or one for each image ``int64 [n]``.
    """
    if not len(images):
        none = np.zeros(0, dtype=np.int64)
        return Answers(labels=none, ticket_ids=none, confidence=np.zeros(0, dtype=np.float32))
    parts = []
    for start in range(0, len(images), 256):
        batch, _ = images.batch(range(start, min(start + 256, len(images))))
        chosen: int | list[int] | None
        if isinstance(ticket_id, np.ndarray):
            chosen = ticket_id[start : start + len(batch)].tolist()
        else:
            chosen = ticket_id
        parts.append(bank.predict(batch, ticket_ids=chosen))
    return Answers(
        labels=torch.cat([p.labels for p in parts]).numpy(),
        ticket_ids=torch.cat([p.ticket_ids for p in parts]).numpy(),
        confidence=torch.cat([p.confidence for p in parts]).numpy(),
    )


def servable(bank: TicketBank) -> TicketBank:
    """The bank as it takes images, if it was learned from records of the trunk."""
    if not isinstance(bank.backbone, RecordedBackbone):
        return bank
    return TicketBank(bank.backbone.original, bank.task, bank.router, tickets=bank.tickets)


def collapse_events(context: RunContext, ids: Mapping[str, int]) -> OnCollapse:
    """Writes each flag of a ticket, and what was done about it, to ``metrics.jsonl``.

    Args:
        context: the run's.
        ids: by the names of the tickets that are being learned.
    """

    def emit(report: CollapseReport, relaxation: Mapping[str, Any] | None) -> None:
        facts = report.to_json()
        # The ticket's entry in results.json has the whole trace and the layers.
        for key in ("history", "layer_sparsity", "healthy_layer_sparsity"):
            del facts[key]
        ticket = ids[report.ticket]
        context.emit("collapse", ticket=ticket, cluster=facts.pop("ticket"), **facts)
        if relaxation is not None:
            context.emit("relaxation", ticket=ticket, cluster=report.ticket, **relaxation)

    return emit


def domain_counts(data: ImageSet, domains: tuple[str, ...]) -> dict[str, int]:
    """Samples of each domain that occurs; for the record, never to learn from."""
    counts = np.bincount(data.domains, minlength=len(domains))
    return {name: int(count) for name, count in zip(domains, counts, strict=True) if count}


def merged_passes(bank: TicketBank) -> float:
    """Passes of the unmasked body for an input, over the backbone's cost; 0 if no head asks."""
    if not len(bank):
        return 0.0
    flops = backbone_flops(bank.backbone)
    merged = sum(bank.is_merged(ticket) for ticket in bank) / len(bank)
    return merged * flops["body"] / flops["total"]


def serving_parameters(bank: TicketBank, num_domains: int) -> dict[str, float]:
    """A bank's ``parameters`` entry, as ``docs/results-format.md`` defines it."""
    counts = bank.parameter_counts()
    per_ticket = (counts["norm"] + counts["heads"]) // max(1, len(bank))
    head = counts["heads"] // max(1, len(bank))
    backbone = counts["trunk"] + counts["body"]
    gate = 0
    if isinstance(bank.router, Router):
        gate = sum(t.numel() for t in bank.router.state_dict().values())
    union = counts["trunk"] + counts["body_other"] + counts["union"] + gate
    union += counts["norm"] + counts["heads"]
    separate = num_domains * (backbone + head)
    tickets = sum(
        ticket.mask.bits.nbytes
        + sum(t.numel() * t.element_size() for t in ticket.tensors().values())
        for ticket in bank
    )
    return {
        "backbone": backbone,
        "effective_union": union,
        "separate_models": separate,
        "ratio_vs_separate": separate / union,
        "bytes_on_disk": 4 * (backbone + gate) + tickets,
        "trainable": bank.layout.total + per_ticket + gate,
        "union_of_body": counts["union"] / bank.layout.total,
    }
