"""Lets a monitor look at a ticket in training, and carries out what a policy decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch

from rtl_continual.registry import hooks
from rtl_continual.tickets import Mask, MaskScores, TicketBank, magnitude_scores
from rtl_continual.training._collapse import CollapseMonitor, CollapseReport
from rtl_continual.training._collapse_config import CollapseConfig
from rtl_continual.training._collapse_scores import TicketState
from rtl_continual.training._relaxation import Relaxation, build_relaxation_policy

if TYPE_CHECKING:
    from rtl_continual.training._learner import TicketLearner

__all__ = ["CollapseWatch", "OnCollapse", "watch_collapse"]

_WAIT = 0.1
"""A check also comes after this share of the steps, when the mask gets no sparser any more."""

OnCollapse = Callable[[CollapseReport, Mapping[str, Any] | None], None]
"""Told of every flag, and of what was done about it: before and after, or ``None``."""


class CollapseWatch:
    """Checks one ticket as its mask gets sparser, and relaxes its target a few times at most.

    Args:
        bank: the bank the ticket will join; read only.
        config: options.
        probe: trunk activations of some training images, without their labels.
        ticket: the ticket's name.
        on_collapse: told of every flag.
    """

    def __init__(
        self,
        bank: TicketBank,
        config: CollapseConfig,
        probe: torch.Tensor,
        *,
        ticket: str,
        on_collapse: OnCollapse | None = None,
    ) -> None:
        self.config = config
        self.probe = probe
        self.policy = build_relaxation_policy(config.policy)
        self.on_collapse = on_collapse
        self.relaxations: list[dict[str, Any]] = []
        self.flags = 0
        self._bank = bank
        self._others = tuple(other.mask for other in bank)
        self._healthy_keep: torch.Tensor | None = None
        self._last_level = -math.inf
        self._last_step = 0
        self._done = False
        self.monitor = CollapseMonitor(
            ticket,
            score=config.score,
            direction=config.direction,
            earlier=_earlier_histories(bank, config.score),
        )

    def look(self, learner: TicketLearner, *, final: bool = False) -> None:
        """Check the mask that is in force, if it is sparse enough for another check.

        Args:
            learner: about to make its next mask; its target may be relaxed here.
            final: this mask is the last one.
        """
        if self._done:
            return
        sparsity = learner.mask_sparsity
        level = -math.log2(max(1 - sparsity, 1e-9))
        waited = learner.steps_done - self._last_step >= _WAIT * learner.total_steps
        if not (final or waited or level >= self._last_level + self.config.level):
            return
        self._last_step, self._last_level = learner.steps_done, level
        report = self.monitor.check(self._state(learner, sparsity), learner.target)
        if report is None:
            self._healthy_keep = learner.scores.keep.clone()
            return
        self.flags += 1
        self._answer(learner, report)
        # What has grown back needs time to be of use, and the next check comes after it.
        self._last_level = math.inf

    def _answer(self, learner: TicketLearner, report: CollapseReport) -> None:
        relaxation, by = None, "relax_sparsity"
        if len(self.relaxations) < self.config.max_relaxations:
            relaxation = hooks().relax_sparsity(report=report)
            if relaxation is None:
                relaxation, by = self.policy.relax(report), self.policy.name
        facts = None if relaxation is None else self._apply(learner, report, relaxation, by)
        if facts is None:
            # Nobody will answer the next flag either, and each one would say the same.
            self._done = True
        if self.on_collapse is not None:
            self.on_collapse(report, facts)

    def _apply(
        self, learner: TicketLearner, report: CollapseReport, relaxation: Relaxation, by: str
    ) -> dict[str, Any]:
        before = {"target": learner.target, "kept": int(learner.scores.keep.sum())}
        learner.relax(relaxation, self._healthy_keep)
        after = {"target": learner.target, "kept": int(learner.scores.keep.sum())}
        facts = {
            "policy": by,
            "step": report.step,
            "target_before": before["target"],
            "target_after": after["target"],
            "kept_before": before["kept"],
            "kept_after": after["kept"],
            "layers": sorted(relaxation.layers),
            "frozen": relaxation.freeze,
        }
        self.relaxations.append(facts)
        self.monitor.relaxed()
        self._done = relaxation.freeze
        return facts

    def facts(self) -> dict[str, Any]:
        """What the ticket remembers of this; later tickets learn their threshold from it."""
        return {
            "score": self.monitor.score.name,
            "direction": self.monitor.direction,
            "trace": self.monitor.trace,
            "flags": self.flags,
            "relaxations": self.relaxations,
        }

    def _state(self, learner: TicketLearner, sparsity: float) -> TicketState:
        features, outputs = learner.probe(self.probe)
        ahead = None
        if self.config.score == "lookahead":
            _, ahead = learner.probe(self.probe, sparsity=1 - (1 - sparsity) / 2)
        return TicketState(
            step=learner.steps_done,
            total_steps=learner.total_steps,
            sparsity=sparsity,
            mask=learner.scores.mask(),
            others=self._others or (self._magnitude_mask(sparsity),),
            features=features,
            outputs=outputs,
            ahead=ahead,
        )

    def _magnitude_mask(self, sparsity: float) -> Mask:
        """The first ticket has no others: it is compared with the backbone's largest weights."""
        bank = self._bank
        weights = bank.layout.flatten(dict(bank.backbone.body.named_parameters())).detach()
        scores = MaskScores(bank.layout, weights, magnitude_scores(bank.layout, weights))
        scores.binarise(sparsity)
        return scores.mask()


class HasActivations(Protocol):
    """The part of a cache of training data that a watch reads."""

    @property
    def features(self) -> torch.Tensor: ...

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...


def watch_collapse(
    learner: TicketLearner,
    cache: HasActivations,
    *,
    ticket: str,
    on_collapse: OnCollapse | None = None,
) -> None:
    """Set a watch on a learner, if its options ask for one.

    Args:
        learner: not yet trained.
        cache: its training data; the watch keeps activations of a few samples, and no label.
        ticket: the ticket's name.
        on_collapse: told of every flag.
    """
    config = learner.config.collapse
    if config is None:
        return
    count = len(cache.features)
    index = torch.linspace(0, count - 1, min(config.probe_images, count)).round().long().unique()
    probe = cache.batch(index)[0]
    learner.watch = CollapseWatch(
        learner.bank, config, probe, ticket=ticket, on_collapse=on_collapse
    )


def _earlier_histories(bank: TicketBank, score: str) -> list[list[tuple[float, float]]]:
    """What tickets that were never flagged remember of the same score."""
    histories = []
    for ticket in bank:
        known = ticket.info.provenance.get("collapse")
        if known and known["score"] == score and not known["flags"]:
            rows = [row for row in known["trace"] if row["score"] is not None]
            histories.append([(row["sparsity"], row["score"]) for row in rows])
    return histories
