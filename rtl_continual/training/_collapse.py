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

_LEARNED_FROM = 5
"""Healthy values from which a threshold can be learned."""

_WIDTH = 3 * 1.4826
"""How far a usual value may be from the middle, in median absolute deviations: three standard
deviations of a normal distribution."""


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
        score: its value now, if there was anything to compare with.
        chance: what it would be by chance.
        threshold: the learned bound that the score has crossed.
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
    score: float | None
    chance: float | None
    threshold: float | None
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

    The threshold is learned. For ``drop`` it lies below the median of the five highest values that
    the score has had at lower sparsity, by three robust standard deviations of these values and of
    the same values of earlier tickets; for ``rise`` above that of the five lowest. Comparing with
    the best keeps a slow decline from becoming usual. A check outside is flagged, and teaches
    nothing. Scores that fall with sparsity by themselves are judged by their change per halving of
    the kept weights instead of by their value, and by all of their changes.

    Args:
        ticket: its name, for the report.
        score: a name of :data:`COLLAPSE_SCORES`.
        direction: which way out of the band counts: ``drop`` (the document), ``rise`` (the paper's
            classification curves) or ``either``.
        earlier: histories of tickets that ended healthy, each a row of sparsity and score.
    """

    def __init__(
        self,
        ticket: str,
        *,
        score: str = "confidence",
        direction: Direction = "drop",
        earlier: Iterable[Sequence[tuple[float, float]]] = (),
    ) -> None:
        self.ticket = ticket
        self.score = COLLAPSE_SCORES[score]
        self.direction = direction
        self.history: list[tuple[float, float]] = []
        self.trace: list[dict[str, Any]] = []
        self._earlier = [self._judged(rows) for rows in earlier]
        self._before: TicketState | None = None
        self._healthy: TicketState | None = None

    def check(self, state: TicketState, target: float) -> CollapseReport | None:
        """Look at a state; the report if it is flagged, else it counts as healthy.

        Args:
            state: now.
            target: the sparsity that the ticket is to reach.
        """
        found = self.score.measure(state, self._before)
        dying = self._dying(state)
        band = self._band(state)
        flag: Literal["drop", "rise"] | None = None
        if found is not None and band is not None:
            if self.direction != "rise" and found.value < band[0]:
                flag = "drop"
            elif self.direction != "drop" and found.value > band[1]:
                flag = "rise"
        flagged = flag is not None or bool(dying)
        self._note(state, found, band, flagged=flagged)
        if flagged:
            bound = None if flag is None or band is None else band[flag == "rise"]
            return self._report(state, target, found, flag, bound, dying)
        self._before = self._healthy = state
        if found is not None:
            self.history.append((state.sparsity, found.value))
        return None

    def relaxed(self) -> None:
        """Go on after a relaxation: the next state is compared with the last healthy one."""
        self._before = self._healthy

    def _judged(self, history: Sequence[tuple[float, float]]) -> list[float]:
        return _rates(history) if self.score.falls_with_sparsity else [v for _, v in history]

    def _band(self, state: TicketState) -> tuple[float, float] | None:
        """Lowest and highest usual value of the score for a state; ``None`` before it is known."""
        values = self._judged(self.history)
        if len(values) < _LEARNED_FROM:
            return None
        low, high = (self._bound(values, state, sign) for sign in (-1, 1))
        if not self.score.falls_with_sparsity:
            return low, high
        sparsity, last = self.history[-1]
        span = max(0.0, _halvings(state.sparsity) - _halvings(sparsity))
        return last + span * low, last + span * high

    def _bound(self, values: Sequence[float], state: TicketState, sign: int) -> float:
        """The bound below (``sign`` -1) or above (1) usual values."""

        def best(known: Sequence[float]) -> Sequence[float]:
            if self.score.falls_with_sparsity:
                return known
            return sorted(known, reverse=sign < 0)[:_LEARNED_FROM]

        deviations = [d for known in (values, *self._earlier) for d in _deviations(best(known))]
        # A score of few images moves in steps of about one image.
        width = _WIDTH * max(statistics.median(deviations), 1 / len(state.outputs))
        return statistics.median(best(values)) + sign * width

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

    def _note(
        self,
        state: TicketState,
        found: ScoreValue | None,
        band: tuple[float, float] | None,
        *,
        flagged: bool,
    ) -> None:
        """Keep what was seen, with the document's score beside the one that is watched."""
        overlap = COLLAPSE_SCORES["similarity"].measure(state, self._before)
        self.trace.append(
            {
                "step": state.step,
                "sparsity": state.sparsity,
                "score": None if found is None else found.value,
                "chance": None if found is None else found.chance,
                "low": None if band is None else band[0],
                "high": None if band is None else band[1],
                "similarity": None if overlap is None else overlap.value,
                "layer_similarity": {} if overlap is None else dict(overlap.layers),
                "flagged": flagged,
            }
        )

    def _report(
        self,
        state: TicketState,
        target: float,
        found: ScoreValue | None,
        direction: Literal["drop", "rise"] | None,
        threshold: float | None,
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
            score=None if found is None else found.value,
            chance=None if found is None else found.chance,
            threshold=threshold,
            direction=direction,
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


def _deviations(values: Sequence[float]) -> list[float]:
    """Distances from the median."""
    middle = statistics.median(values) if values else 0.0
    return [abs(value - middle) for value in values]
