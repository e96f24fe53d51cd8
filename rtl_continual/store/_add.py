"""New data to a new version: discover, learn, judge, commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rtl_continual.backbones import Backbone
from rtl_continual.discovery import Discovery, KnownTickets, discover
from rtl_continual.errors import BankError, DataError
from rtl_continual.registry import hooks
from rtl_continual.routing import FeatureMixture
from rtl_continual.store._add_config import AddConfig
from rtl_continual.store._add_data import NewData, look_at, read_new_data
from rtl_continual.store._add_trial import Trial, judge, split_by_class, with_ticket
from rtl_continual.store._addition import Addition, Candidate
from rtl_continual.store._files import tag_name
from rtl_continual.streams import ImageSet
from rtl_continual.tickets import Ticket, TicketBank, TicketInfo
from rtl_continual.training import CollapseReport, learn_ticket

if TYPE_CHECKING:
    from rtl_continual.store._store import BankStore

__all__ = ["add_tickets"]

_ATTEMPTS = 100


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
    if tag is not None:
        tag_name(tag)
    if not dry_run:
        # Better told now than after an hour of learning.
        store.storage.probe()
    work = _Adding(store, config or AddConfig(), backbone, on_progress or _quiet)
    new = work.read(data, None if labels is None else Path(labels))
    if name in work.known:
        raise BankError(f"bank '{store}' has a ticket named '{name}' already: choose another name")
    new = work.look(new)
    name = name or (Path(data).resolve().name if isinstance(data, str | Path) else "ticket")
    for rows, called in work.needed(name):
        work.learn(new, rows, called)
    return work.finish(dry_run=dry_run, tag=tag, message=message)


def _quiet(text: str) -> None:
    """For those who do not listen."""


@dataclass(frozen=True)
class _Accepted:
    """A ticket that is worth it: whose candidate it is, and what it was judged on."""

    candidate: int
    ticket: Ticket
    held: ImageSet


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
        self.bank = self._newest(backbone)
        self.base = self.bank.version
        self.known = self.bank.names
        self.candidates: list[Candidate] = []
        self.accepted: list[_Accepted] = []
        self.overtaken: list[int] = []

    def _newest(self, backbone: Backbone | None) -> TicketBank:
        bank = self.store.load(backbone=backbone)
        if bank.router is None:
            raise BankError(
                f"bank '{self.store}' has no router, so that a new ticket would not be used"
            )
        return bank

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
        return new

    def look(self, new: NewData) -> NewData:
        """Which images need tickets that the bank has not? Gives those that can be read."""
        self.say(f"looking at {len(new.images)} images")
        seen = look_at(self.bank.backbone, new, max_broken=self.config.max_broken)
        new, features, self.digest, self.broken = seen.data, seen.features, seen.digest, seen.broken
        self.missing = self._missing_classes(new.images.targets)
        if self.config.growth == "one":
            ids = np.full(len(features), len(self.bank), dtype=np.int64)
            self.found = Discovery(ids, (len(self.bank),), 0)
            return new
        known = KnownTickets([FeatureMixture(ticket.statistics) for ticket in self.bank])
        self.found = discover(features, known, self.config.discovery, targets=new.images.targets)
        if self.found.new:
            new_samples = int((self.found.ticket_ids >= len(self.bank)).sum())
            self.tell("shift_detected", clusters=len(self.found.new), samples=new_samples)
        return new

    def _missing_classes(self, targets: np.ndarray) -> tuple[str, ...]:
        """Classes of the bank without an image."""
        count = self.bank.task.num_outputs
        names = getattr(self.bank.task, "classes", None) or [str(i) for i in range(count)]
        images = np.bincount(targets, minlength=count)
        return tuple(name for name, number in zip(names, images, strict=True) if not number)

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
        self.say(f"ticket '{name}': learning from {len(fit)} images")
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
        images = new.images.subset(rows[held])
        tried = with_ticket(self.bank, ticket, learner)
        trial = judge(self.bank, tried, images, self.config)
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
            self.accepted.append(_Accepted(len(self.candidates) - 1, ticket, images))
            self.bank.append(self._with_provenance(ticket, trial))
            self.bank.router = tried.router

    def judge_again(self) -> None:
        """Others were faster: what was accepted must be worth it on top of theirs, too."""
        old, accepted, self.accepted = self.bank, self.accepted, []
        self.bank = self._newest(old.backbone)
        self.base = self.bank.version
        self.overtaken.append(self.base)
        self.say(f"version {self.base} has come meanwhile: judging again, against it")
        stored = self.store.read(self.base).tickets
        ids = {entry.fingerprint: ticket_id for ticket_id, entry in enumerate(stored)}
        for one in accepted:
            info, name = one.ticket.info, one.ticket.name
            called = next(n for n in _numbered(name) if n not in self.bank.names)
            parent = None if info.parent is None else ids.get(old[info.parent].fingerprint)
            ticket = replace(
                one.ticket,
                id=len(self.bank),
                info=replace(info, name=called, cluster=called, parent=parent),
            )
            tried = with_ticket(self.bank, ticket)
            trial = judge(self.bank, tried, one.held, self.config)
            self.candidates[one.candidate] = replace(
                self.candidates[one.candidate], name=called, trial=trial
            )
            if trial.accepted:
                ids[ticket.fingerprint] = ticket.id
                self.accepted.append(replace(one, ticket=ticket))
                self.bank.append(self._with_provenance(ticket, trial))
                self.bank.router = tried.router

    def commit(self, message: str) -> int | None:
        """The version with what is worth it, or ``None`` if nothing is any more."""
        for _ in range(_ATTEMPTS):
            if not self.accepted:
                return None
            words = f"added {self._accepted_names()}"
            self.say(f"committing on top of version {self.base}")
            manifest = self.store.try_commit(self.bank, message=message or words)
            if manifest is not None:
                return manifest.version
            self.judge_again()
        raise BankError(
            f"bank '{self.store}' changes faster than a ticket can be judged; try again"
        )

    def _accepted_names(self) -> str:
        return ", ".join(f"'{c.name}'" for c in self.candidates if c.trial.accepted)

    def move(self, tag: str, version: int) -> None:
        """Let a tag name a version, unless another writer has moved it further already."""
        with self.store.storage.lock():
            if tag not in self.store.tag_names() or self.store.tagged(tag) < version:
                self.store.tag(tag, version)

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
        version = None if dry_run else self.commit(message)
        changes = {} if version is None else self.store.diff(self.base, version)
        words = self._accepted_names()
        rejected = [c for c in self.candidates if not c.trial.accepted]
        for candidate in rejected:
            self.tell("ticket_rejected", cluster=candidate.name, reason=candidate.trial.reason)
        if not self.candidates:
            outcome, reason = "nothing_new", self._why_nothing()
        elif not words:
            outcome = "rejected"
            reason = "; ".join(f"'{c.name}' was rejected: {c.trial.reason}" for c in rejected)
        elif dry_run:
            outcome, reason = "would_add", f"would add {words}"
        else:
            assert version is not None, "what is accepted is committed"
            if tag is not None:
                self.move(tag, version)
            outcome, reason = "added", f"added {words} as version {version}"
            for candidate in self.candidates:
                if candidate.trial.accepted:
                    self.tell("ticket_added", cluster=candidate.name, version=version)
        if words and rejected:
            reason += "; " + "; ".join(f"rejected '{c.name}': {c.trial.reason}" for c in rejected)
        ids = self.found.ticket_ids
        return Addition(
            outcome=outcome,  # type: ignore[arg-type]
            reason=reason,
            base=self.base,
            version=version,
            images=len(ids),
            broken=self.broken,
            missing_classes=self.missing,
            data=self.digest,
            served={n: int((ids == i).sum()) for i, n in enumerate(self.known) if (ids == i).any()},
            unassigned=self.found.outliers,
            shift=None if self.config.growth == "one" else bool(self.found.new),
            candidates=tuple(self.candidates),
            overtaken_by=tuple(self.overtaken),
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
