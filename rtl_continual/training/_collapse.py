"""Watches a ticket while it is pruned, and reports when it is about to collapse.

Nothing here sees a label: a monitor is given masks, and what the ticket makes of images.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rtl_continual.training._collapse_scores import (
    COLLAPSE_SCORES,
    ScoreValue,
    TicketState,
)

__all__ = ["CollapseMonitor", "CollapseReport", "Direction"]

Direction = Literal["drop", "rise", "either"]

_LEARNED_FROM = 4
"""Changes of the score that a threshold needs before it can be learned."""


@dataclass(frozen=True)
class CollapseReport:
    """What a monitor saw when it raised its flag.

    Args:
        ticket: its name.
        step: updates done.
        total_steps: updates planned.
        sparsity: of the mask now.
        target: the sparsity it was to reach.
        healthy_sparsity: the highest sparsity that was checked without a flag.
        score_name: the score that was watched.
        score: its value now.
        chance: what it would be by chance.
        threshold: the value at which the flag is raised here.
        direction: in which direction the score left what was expected; ``None`` where only a
            layer was flagged.
        history: sparsity and score of the checks before this one, oldest first.
        layers: names of the layers that collapse.
        dying_layers: those of them that are about to lose all their weights.
        layer_sparsity: of the mask now, by layer.
        healthy_layer_sparsity: of the last mask that was not flagged, by layer.
    """

    ticket: str
    step: int
    total_steps: int
    sparsity: float
    target: float
    healthy_sparsity: float
    score_name: str
    score: float
    chance: float
    threshold: float
    direction: Literal["drop", "rise"] | None
    history: tuple[tuple[float, float], ...] = ()
    layers: tuple[str, ...] = ()
    dying_layers: tuple[str, ...] = ()
    layer_sparsity: Mapping[str, float] = field(default_factory=dict)
    healthy_layer_sparsity: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def example(cls, **changes: Any) -> CollapseReport:
        """A made-up report, to try policies on."""
        values: dict[str, Any] = {
            "ticket": "example",
            "step": 300,
            "total_steps": 500,
            "sparsity": 0.985,
            "target": 0.99,
            "healthy_sparsity": 0.97,
            "score_name": "similarity",
            "score": 0.2,
            "chance": 0.01,
            "threshold": 0.3,
            "direction": "drop",
            "history": ((0.9, 0.5), (0.95, 0.45), (0.97, 0.4)),
            "layers": ("conv.weight",),
            "layer_sparsity": {"conv.weight": 0.99, "linear.weight": 0.98},
            "healthy_layer_sparsity": {"conv.weight": 0.95, "linear.weight": 0.97},
        }
        return cls(**{**values, **changes})


class CollapseMonitor:
    """Follows one ticket from check to check, each at a higher sparsity than the one before.

    The threshold is learned. The score's changes per halving of the kept weights, at lower sparsity
    and along earlier tickets, say what change is usual; a check is flagged when the score changes
    faster than it ever has, by more than these changes scatter.

    Args:
        ticket: its name, for the report.
        score: a name of :data:`COLLAPSE_SCORES`.
        direction: which change counts: ``drop`` (the document), ``rise`` (the paper's
            classification curves) or ``either``.
        earlier: histories of tickets that ended healthy, each a row of sparsity and score.
    """

    def __init__(
        self,
        ticket: str,
        *,
        score: str = "similarity",
        direction: Direction = "drop",
        earlier: Iterable[Sequence[tuple[float, float]]] = (),
    ) -> None:
        self.ticket = ticket
        self.score = COLLAPSE_SCORES[score]
        self.direction = direction
        self.history: list[tuple[float, float]] = []
        self.trace: list[dict[str, Any]] = []
        self._earlier = [rate for rows in earlier for rate in _rates(rows)]
        self._before: TicketState | None = None
        self._healthy: TicketState | None = None

    def check(self, state: TicketState, target: float) -> CollapseReport | None:
        """Look at a state; the report if it is flagged, else it counts as healthy.

        Args:
            state: now; sparser than at the check before, or the monitor learns nothing from it.
            target: the sparsity that the ticket is to reach.
        """
        found = self.score.measure(state, self._before)
        dying = self._dying(state)
        flag: tuple[Literal["drop", "rise"], float] | None = None
        if found is not None:
            flag = self._judge(state.sparsity, found.value)
        self._note(state, found, flagged=flag is not None or bool(dying))
        if flag is None and not dying:
            self._before = self._healthy = state
            if found is not None:
                self.history.append((state.sparsity, found.value))
            return None
        return self._report(state, target, found or ScoreValue(math.nan, math.nan), flag, dying)

    def relaxed(self) -> None:
        """Go on after a relaxation: what is sparser than the last healthy mask is unknown again."""
        self._before = self._healthy

    def _judge(self, sparsity: float, value: float) -> tuple[Literal["drop", "rise"], float] | None:
        """Direction and threshold of a flag, or ``None``."""
        rates = _rates(self.history)
        if len(rates) < _LEARNED_FROM:
            return None
        span = _halvings(sparsity) - _halvings(self.history[-1][0])
        if span <= 0:
            return None
        known = rates + self._earlier
        scatter = statistics.pstdev(known)
        last = self.history[-1][1]
        low, high = (
            last + span * (min(known) - scatter),
            last + span * (max(known) + scatter),
        )
        if self.direction in ("drop", "either") and value < low:
            return "drop", low
        if self.direction in ("rise", "either") and value > high:
            return "rise", high
        return None

    def _note(self, state: TicketState, found: ScoreValue | None, *, flagged: bool) -> None:
        """Keep what was seen, with the document's score beside the one that is watched."""
        overlap = COLLAPSE_SCORES["similarity"].measure(state, self._before)
        self.trace.append(
            {
                "step": state.step,
                "sparsity": state.sparsity,
                "score": None if found is None else found.value,
                "chance": None if found is None else found.chance,
                "similarity": None if overlap is None else overlap.value,
                "flagged": flagged,
            }
        )

    def _dying(self, state: TicketState) -> tuple[str, ...]:
        """Layers that the next check would find empty, if they shrink on as since the last one."""
        if self._before is None:
            return ()
        before = self._before.mask.counts
        return tuple(
            name
            for name, kept in state.mask.counts.items()
            if kept < before[name] and kept * kept < before[name]
        )

    def _report(
        self,
        state: TicketState,
        target: float,
        found: ScoreValue,
        flag: tuple[Literal["drop", "rise"], float] | None,
        dying: tuple[str, ...],
    ) -> CollapseReport:
        healthy = self._healthy or state
        density, was = state.mask.layer_density(), healthy.mask.layer_density()
        shrunk = {name: density[name] / max(was[name], 1e-12) for name in density}
        mean = (1 - state.mask.sparsity) / max(1 - healthy.mask.sparsity, 1e-12)
        worst = tuple(name for name, share in shrunk.items() if share < mean)
        return CollapseReport(
            ticket=self.ticket,
            step=state.step,
            total_steps=state.total_steps,
            sparsity=state.sparsity,
            target=target,
            healthy_sparsity=healthy.sparsity,
            score_name=self.score.name,
            score=found.value,
            chance=found.chance,
            threshold=math.nan if flag is None else flag[1],
            direction=None if flag is None else flag[0],
            history=tuple(self.history),
            layers=dying or worst or tuple(density),
            dying_layers=dying,
            layer_sparsity={name: 1 - d for name, d in density.items()},
            healthy_layer_sparsity={name: 1 - d for name, d in was.items()},
        )


def _halvings(sparsity: float) -> float:
    """How often the kept weights have been halved."""
    return -math.log2(max(1 - sparsity, 1e-9))


def _rates(history: Sequence[tuple[float, float]]) -> list[float]:
    """Change of the score per halving of the kept weights, from check to check."""
    rates = []
    for (before, old), (now, new) in itertools.pairwise(history):
        span = _halvings(now) - _halvings(before)
        if span > 0:
            rates.append((new - old) / span)
    return rates
