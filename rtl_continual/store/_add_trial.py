"""Is a new ticket worth having? Judged on held-out images, against the bank as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rtl_continual.routing import FeatureMixture
from rtl_continual.store._add_config import AddConfig
from rtl_continual.streams import ImageSet
from rtl_continual.tasks import balanced_accuracy, confusion_matrix
from rtl_continual.tickets import LazyTickets, Ticket, TicketBank
from rtl_continual.training import TicketLearner, commit_ticket

__all__ = ["Trial", "judge", "split_by_class", "with_ticket"]

_MOST_JUDGED = 2000
_DRAWN = 512


@dataclass(frozen=True)
class Trial:
    """Balanced accuracies on held-out images, and what the new ticket takes from the old ones.

    Args:
        accepted: whether the bank gains enough.
        reason: why, or why not.
        held_out: images it was judged on.
        bank_before: the bank without the new ticket, routed; ``None`` for an empty bank.
        best_ticket: name of the old ticket that would do best for all of the images.
        best_before: what that one reaches.
        ticket: the new ticket, given to all images.
        bank_after: the bank with the new ticket, routed.
        margin: the gain that was asked for.
        taken: for each old ticket that loses any, the share of samples drawn from its feature
            mixture that went to it before and now go to the new ticket.
    """

    accepted: bool
    reason: str
    held_out: int
    bank_before: float | None
    best_ticket: str | None
    best_before: float | None
    ticket: float
    bank_after: float
    margin: float
    taken: dict[str, float]


def judge(before: TicketBank, after: TicketBank, images: ImageSet, config: AddConfig) -> Trial:
    """Compare a bank with the same bank and one more ticket.

    Args:
        before: may be empty.
        after: its last ticket is the new one.
        images: held out of that ticket's training.
        config: margin and limits.
    """
    pick = np.unique(np.linspace(0, len(images) - 1, min(len(images), _MOST_JUDGED)).astype(int))
    pixels, labels = images.batch(pick)
    targets = labels.numpy()
    best: tuple[float, str] | None = None
    for ticket_id, name in enumerate(before.names):
        reached = _balanced(before, pixels, targets, ticket_id)
        best = (reached, name) if best is None or reached > best[0] else best
    bank_before = _balanced(before, pixels, targets) if len(before) else None
    bank_after = _balanced(after, pixels, targets)
    taken = _taken(before, after, config.seed)
    bar = max(bank_before or 0.0, best[0] if best else 0.0)
    gain = bank_after - bar
    worst = max(taken, key=taken.__getitem__) if taken else None
    if best is not None and gain < config.margin:
        reason = (
            f"balanced accuracy {bar:.4f} -> {bank_after:.4f} on {len(pick)} held-out images, the "
            f"margin is {config.margin}"
        )
    elif worst is not None and taken[worst] > config.max_taken:
        reason = (
            f"it would take {taken[worst]:.1%} of the inputs of ticket '{worst}', at most "
            f"{config.max_taken:.1%} are allowed"
        )
    else:
        reason = ""
    return Trial(
        accepted=not reason,
        reason=reason or f"balanced accuracy {bar:.4f} -> {bank_after:.4f} on {len(pick)} images",
        held_out=len(pick),
        bank_before=bank_before,
        best_ticket=best[1] if best else None,
        best_before=best[0] if best else None,
        ticket=_balanced(after, pixels, targets, len(after) - 1),
        bank_after=bank_after,
        margin=config.margin,
        taken=taken,
    )


def with_ticket(
    bank: TicketBank, ticket: Ticket, learner: TicketLearner | None = None
) -> TicketBank:
    """Another bank with the same tickets and one more, which its router knows."""
    tickets = LazyTickets(bank.names, bank.__getitem__)
    grown = TicketBank(bank.backbone, bank.task, bank.router, tickets=tickets)
    commit_ticket(grown, ticket, learner)
    return grown


def split_by_class(
    targets: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows to judge on, both ascending.

    Each class gives ``fraction`` of its images, at least one where it has two.
    """
    rng = np.random.default_rng(seed)
    held = []
    for label in np.unique(targets).tolist():
        rows = rng.permutation(np.flatnonzero(targets == label))
        held.append(rows[: min(max(round(len(rows) * fraction), 1), len(rows) - 1)])
    given = np.sort(np.concatenate(held)) if held else np.zeros(0, dtype=np.int64)
    return np.setdiff1d(np.arange(len(targets)), given), given


def _balanced(
    bank: TicketBank, images: torch.Tensor, targets: np.ndarray, ticket_id: int | None = None
) -> float:
    labels = bank.predict(images, ticket_ids=ticket_id).labels.numpy()
    return balanced_accuracy(confusion_matrix(targets, labels, bank.task.num_outputs))


def _taken(before: TicketBank, after: TicketBank, seed: int) -> dict[str, float]:
    """Old data are gone, but what is remembered of their features shows where they go now."""
    if not len(before) or before.router is None or after.router is None:
        return {}
    lost = {}
    for ticket in before:
        draw = torch.Generator().manual_seed(seed + ticket.id)
        features = FeatureMixture(ticket.statistics).sample(_DRAWN, draw).float()
        old = before.router.route(features).ticket_ids[:, 0].cpu()
        new = after.router.route(features).ticket_ids[:, 0].cpu()
        own = old == ticket.id
        gone = int((own & (new == len(before))).sum())
        if gone:
            lost[ticket.name] = gone / int(own.sum())
    return lost
