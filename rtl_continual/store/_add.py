"""New data to a new version: discover, learn, judge, commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from rtl_continual.backbones import Backbone
from rtl_continual.discovery import Discovery, KnownTickets, discover
from rtl_continual.errors import BankError, DataError
from rtl_continual.registry import hooks
from rtl_continual.routing import FeatureMixture
from rtl_continual.store._add_config import AddConfig
from rtl_continual.store._add_data import NewData, look_at, read_new_data
from rtl_continual.store._add_trial import Trial, judge, split_by_class
from rtl_continual.streams import ImageSet
from rtl_continual.tickets import LazyTickets, Ticket, TicketBank, TicketInfo
from rtl_continual.training import CollapseReport, commit_ticket, learn_ticket

if TYPE_CHECKING:
    from rtl_continual.store._store import BankStore

__all__ = ["Addition", "Candidate", "add_tickets"]


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
        base: the version it started from.
        version: the version committed, or ``None``.
        images: how many there were.
        missing_classes: classes of the bank without an image in the data.
        data: hash of the images' pixels and labels.
        served: images by the known ticket whose data they resemble.
        unassigned: images that resemble nothing and are too few for a ticket.
        shift: whether there are images that need a new ticket.
        candidates: tickets that were learned.
        changes: from ``base`` to ``version``, as :meth:`BankStore.diff` gives it.
    """

    outcome: Literal["added", "would_add", "rejected", "nothing_new"]
    reason: str
    base: int
    version: int | None
    images: int
    missing_classes: tuple[str, ...]
    data: str
    served: dict[str, int]
    unassigned: int
    shift: bool
    candidates: tuple[Candidate, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def add_tickets(
    store: BankStore,
    data: str | Path | ImageSet,
    *,
    labels: str | Path | None = None,
    name: str = "",
    config: AddConfig | None = None,
    tag: str | None = None,
    message: str = "",
    dry_run: bool = False,
    backbone: Backbone | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Addition:
    """See :meth:`StoredBank.add`; nothing else may use ``backbone`` meanwhile."""
    work = _Adding(store, config or AddConfig(), backbone, on_progress or _quiet)
    new = work.read(data, None if labels is None else Path(labels))
    if name in work.known:
        raise BankError(f"bank '{store}' has a ticket named '{name}' already: choose another name")
    work.look(new)
    name = name or (Path(data).resolve().name if isinstance(data, str | Path) else "ticket")
    for rows, called in work.needed(name):
        work.learn(new, rows, called)
    return work.finish(dry_run=dry_run, tag=tag, message=message)


def _quiet(text: str) -> None:
    """For those who do not listen."""


class _Adding:
    """One night's work."""

    def __init__(
        self,
        store: BankStore,
        config: AddConfig,
        backbone: Backbone | None,
        say: Callable[[str], None],
    ) -> None:
        self.store = store
        self.config = config
        self.say = say
        self.bank: TicketBank = store.load(backbone=backbone)
        if self.bank.router is None:
            raise BankError(f"bank '{store}' has no router, so that a new ticket would not be used")
        self.base = self.bank.version
        self.known = self.bank.names
        self.candidates: list[Candidate] = []
        self.missing: tuple[str, ...] = ()

    def read(self, data: str | Path | ImageSet, labels: Path | None) -> NewData:
        """The data with the bank's labels."""
        task = self.bank.task
        classes: Sequence[str] | None = getattr(task, "classes", None)
        if isinstance(data, ImageSet):
            new = NewData(data, ())
            task.check_targets(torch.as_tensor(data.targets))
        else:
            new = read_new_data(
                Path(data),
                self.bank.backbone.input_spec,
                num_classes=task.num_outputs,
                classes=classes,
                labels=labels,
            )
        counts = np.bincount(new.images.targets, minlength=task.num_outputs)
        names = classes or [str(i) for i in range(task.num_outputs)]
        self.missing = tuple(n for n, images in zip(names, counts, strict=True) if not images)
        return new

    def look(self, new: NewData) -> None:
        """Which images need tickets that the bank has not?"""
        self.say(f"looking at {len(new.images)} images")
        features, self.digest = look_at(self.bank.backbone, new.images)
        if self.config.growth == "one":
            ids = np.full(len(features), len(self.bank), dtype=np.int64)
            self.found = Discovery(ids, (len(self.bank),), 0)
            return
        known = KnownTickets([FeatureMixture(ticket.statistics) for ticket in self.bank])
        self.found = discover(features, known, self.config.discovery, targets=new.images.targets)
        if self.found.new:
            new_samples = int((self.found.ticket_ids >= len(self.bank)).sum())
            self.tell("shift_detected", clusters=len(self.found.new), samples=new_samples)

    def tell(self, hook: str, **facts: Any) -> None:
        """Let plugins hear of it."""
        getattr(hooks(), hook)(folder=Path(str(self.store)), unit="bank add", facts=facts)

    def needed(self, name: str) -> list[tuple[np.ndarray, str]]:
        """Rows and ticket name of each new cluster, the largest first."""
        groups = sorted((self.found.members(t) for t in self.found.new), key=len, reverse=True)
        taken, named = set(self.known), []
        for rows in groups:
            called = next(n for n in _numbered(name) if n not in taken)
            taken.add(called)
            named.append((rows, called))
        return named

    def learn(self, new: NewData, rows: np.ndarray, name: str) -> None:
        """Learn a ticket for some rows, and keep it if it is worth it."""
        seed, targets = self.config.seed, new.images.targets[rows]
        fit, held = split_by_class(targets, self.config.holdout, seed)
        if len(fit) < 2 or not len(held):
            raise DataError(
                f"{len(rows)} images are too few to learn from some and judge on the others"
            )
        info = TicketInfo(name=name, cluster=name, domain_counts=new.domain_counts(rows[fit]))
        flags: list[dict[str, Any]] = []
        ticket, learner = learn_ticket(
            self.bank,
            new.images.subset(rows[fit]),
            self.config.tickets,
            info=info,
            seed=seed,
            on_epoch=lambda e: self.say(
                f"ticket '{name}': epoch {int(e['epoch']) + 1} of {self.config.tickets.epochs}, "
                f"loss {e['loss']:.3f}"
            ),
            on_collapse=lambda report, done: self.heard(flags, report, done),
        )
        self.say(f"ticket '{name}': judging it on {len(held)} images")
        tried = TicketBank(
            self.bank.backbone,
            self.bank.task,
            self.bank.router,
            tickets=LazyTickets(self.bank.names, self.bank.__getitem__),
        )
        commit_ticket(tried, ticket, learner)
        trial = judge(self.bank, tried, new.images.subset(rows[held]), self.config)
        self.candidates.append(
            Candidate(
                name=name,
                samples=len(rows),
                domain_counts=new.domain_counts(rows),
                sparsity=ticket.mask.sparsity,
                collapse=tuple(flags),
                parent=None if ticket.info.parent is None else self.bank.names[ticket.info.parent],
                trial=trial,
            )
        )
        if trial.accepted:
            self.bank.append(self._with_provenance(ticket, trial))
            self.bank.router = tried.router

    def heard(
        self,
        flags: list[dict[str, Any]],
        report: CollapseReport,
        done: Mapping[str, Any] | None,
    ) -> None:
        """Keep a report of collapse and what was done about it."""
        flags.append(
            {
                "sparsity": report.sparsity,
                "score": report.score_name,
                "target_before": report.target if done is None else done["target_before"],
                "target_after": report.target if done is None else done["target_after"],
            }
        )
        facts = {**report.to_json(), "ticket": len(self.bank), "cluster": report.ticket}
        self.tell("collapse_detected", **facts, relaxation=done)

    def _with_provenance(self, ticket: Ticket, trial: Trial) -> Ticket:
        facts = {
            **ticket.info.provenance,
            "added_to_version": self.base,
            "config": self.config.model_dump(mode="json"),
            "data": self.digest,
            "trial": asdict(trial),
        }
        return replace(ticket, info=replace(ticket.info, provenance=facts))

    def finish(self, *, dry_run: bool, tag: str | None, message: str) -> Addition:
        """Commit what was accepted, and say what happened."""
        accepted = [c.name for c in self.candidates if c.trial.accepted]
        rejected = [c for c in self.candidates if not c.trial.accepted]
        words = ", ".join(f"'{name}'" for name in accepted)
        for candidate in rejected:
            self.tell("ticket_rejected", cluster=candidate.name, reason=candidate.trial.reason)
        version, changes = None, {}
        if not self.candidates:
            outcome, reason = "nothing_new", self._why_nothing()
        elif not accepted:
            outcome = "rejected"
            reason = "; ".join(f"'{c.name}' was rejected: {c.trial.reason}" for c in rejected)
        elif dry_run:
            outcome, reason = "would_add", f"would add {words}"
        else:
            manifest = self.store.commit(self.bank, message=message or f"added {words}")
            version, changes = manifest.version, self.store.diff(self.base, manifest.version)
            if tag is not None:
                self.store.tag(tag, version)
            outcome, reason = "added", f"added {words} as version {version}"
            for candidate in self.candidates:
                if candidate.trial.accepted:
                    self.tell("ticket_added", cluster=candidate.name, version=version)
        if accepted and rejected:
            reason += "; " + "; ".join(f"rejected '{c.name}': {c.trial.reason}" for c in rejected)
        ids = self.found.ticket_ids
        return Addition(
            outcome=outcome,  # type: ignore[arg-type]
            reason=reason,
            base=self.base,
            version=version,
            images=len(ids),
            missing_classes=self.missing,
            data=self.digest,
            served={n: int((ids == i).sum()) for i, n in enumerate(self.known) if (ids == i).any()},
            unassigned=self.found.outliers,
            shift=bool(self.found.new),
            candidates=tuple(self.candidates),
            changes=changes,
        )

    def _why_nothing(self) -> str:
        images, least = len(self.found.ticket_ids), self.config.discovery.min_support
        if images < least:
            return f"{images} images are fewer than discovery.min_support ({least})"
        if self.found.capped:
            return (
                f"{self.found.capped} new groups, but the bank may not have more than "
                f"discovery.max_tickets ({self.config.discovery.max_tickets}) tickets"
            )
        if self.found.outliers:
            return (
                f"no shift: {self.found.outliers} of {images} images resemble no ticket's data, "
                f"and no {least} of them form a group"
            )
        return f"no shift: all {images} images resemble the data of tickets that are there"


def _numbered(name: str) -> Iterator[str]:
    """The name, then the name with 2, 3, ... behind it."""
    yield name
    yield from (f"{name}-{number}" for number in count(2))
