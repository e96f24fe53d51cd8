"""What adding new data came to, in plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rtl_continual.store._add_trial import Trial

__all__ = ["Addition", "Candidate"]


@dataclass(frozen=True)
class Candidate:
    """A ticket that was learned, and what became of it.

    Args:
        name: its name.
        samples: images it is for, held-out ones included.
        domain_counts: of them, by domain folder.
        sparsity: fraction of the body's weights it drops.
        collapse: each time that it was about to collapse: at which sparsity, which score told,
            and the sparsity targets before and after, which are equal if nothing was done.
        parent: name of the ticket it started from, or ``None``.
        trial: what it is worth on held-out images.
    """

    name: str
    samples: int
    domain_counts: dict[str, int]
    sparsity: float
    collapse: tuple[dict[str, Any], ...]
    parent: str | None
    trial: Trial


@dataclass(frozen=True)
class Addition:
    """What adding new data came to.

    Args:
        outcome: ``added`` (or ``would_add`` in a dry run), ``rejected``, or ``nothing_new``.
        reason: the outcome in words.
        base: the version that candidates were judged against last, which a new one follows.
        version: the version committed, or ``None``.
        overtaken_by: versions that others committed meanwhile, against which the candidates were
            judged again.
        images: how many could be read.
        broken: why each of the others could not be.
        missing_classes: classes of the bank without an image in the data.
        data: hash of the images' pixels and labels.
        served: images by the known ticket whose data they resemble.
        unassigned: images that resemble nothing and are too few for a ticket.
        shift: whether there are images that need a new ticket; ``None`` if discovery was not asked.
        candidates: tickets that were learned.
        changes: from ``base`` to ``version``, as :meth:`BankStore.diff` gives it.
    """

    outcome: Literal["added", "would_add", "rejected", "nothing_new"]
    reason: str
    base: int
    version: int | None
    images: int
    broken: tuple[str, ...]
    missing_classes: tuple[str, ...]
    data: str
    served: dict[str, int]
    unassigned: int
    shift: bool | None
    candidates: tuple[Candidate, ...] = ()
    overtaken_by: tuple[int, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
