"""Drives tickets from 50 % to 99.8 % sparsity and asks which score sees their collapse coming.

Three tickets (one for each of three digit domains) are trained at 50 %, then pruned together, a
step at a time (three steps halve the kept weights), with two epochs at each step.
Every score of ``tickets.collapse`` follows every ticket with a monitor of its own, exactly as in a
run; the monitor sees masks and unlabelled training images. Beside it stands what it cannot see: the
balanced accuracy on the domain's test images. A ticket has fallen at the first step from which it
never again comes within two points of its best, on a running median of three (a test set has 150
images). Tickets that never reach 40 % are drawn, and not judged.

The last line is one JSON object; the curves go to ``--plot`` and, with ``--curves``, to a file.

Usage: python benchmarks/collapse_sweep.py [--quick] [--backbones letters,random]
       [--seeds 0,1,2] [--epochs 2] [--plot FILE.png] [--curves FILE.json]
       [--stored FILE.json ...]   (judge and plot curves of earlier runs; nothing is trained)
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rtl_continual.backbones import build_backbone
from rtl_continual.streams import DigitsConfig, Stream, build_stream
from rtl_continual.tasks import Classification, balanced_accuracy, confusion_matrix
from rtl_continual.tickets import TicketBank
from rtl_continual.training import (
    COLLAPSE_SCORES,
    CollapseMonitor,
    TicketConfig,
    TicketLearner,
    TicketState,
    TrunkCache,
    epoch_batches,
)


@dataclass(frozen=True)
class Setup:
    """A backbone, and a task for three tickets that it can learn."""

    backbone: dict[str, Any]
    domains: tuple[str, ...]
    images: int


SETUPS = {
    "letters": Setup(
        {"weights": "built-in", "split": "block1"}, ("handwritten", "printed", "street"), 128
    ),
    "random": Setup({"weights": "random:0", "width": 12}, ("handwritten", "outline", "photo"), 192),
}
"""GlyphNet pretrained on letters, masked from its second block on, and one of half the width with
random weights, masked from its first."""
FALL = 0.02
EARLY = 6
"""A flag more steps than that before the fall is false: the kept weights would still shrink to a
quarter without harm."""
FIRST = 6
"""No threshold is known before this step, and what falls earlier cannot be foreseen."""
DIRECTIONS: tuple[Literal["drop", "rise"], ...] = ("drop", "rise")
PROBE = 128
LEARNED = 0.4
TESTS = 150
WARM_UP = 8
"""Passes at 50 %, times the passes at each later step."""


def levels(quick: bool) -> list[float]:
    """Sparsities from 50 % to 99.8 %."""
    steps = 9 if quick else 25
    return [1 - 0.5 ** (1 + 8 * i / (steps - 1)) for i in range(steps)]


class Member:
    """One ticket of a sweep, with its data and a monitor for every score."""

    def __init__(
        self, bank: TicketBank, config: TicketConfig, stream: Stream, domain: int, seed: int
    ) -> None:
        name = stream.domains[domain]
        self.bank, self.config, self.seed = bank, config, seed
        self.train = TrunkCache(bank, stream.experiences[domain].train, config.cache_bytes)
        self.test = TrunkCache(bank, stream.tests[name], config.cache_bytes)
        self.learner = TicketLearner(bank, config, total_steps=1, seed=seed)
        count = len(self.train.features)
        index = torch.linspace(0, count - 1, min(PROBE, count)).round().long().unique()
        self.probe = self.train.batch(index)[0]
        self.monitors = {
            (score, direction): CollapseMonitor(name, score=score, direction=direction)
            for score in COLLAPSE_SCORES
            for direction in DIRECTIONS
        }
        self.accuracy: list[float] = []

    def learn(self, sparsity: float, *, epochs: int, scale: float, first_epoch: int) -> None:
        """Train at one sparsity; the rates start at ``scale`` times their own and fall to 0."""
        learner, rates = self.learner, self.learner.rates(self.config, gate=False)
        batches = [
            index
            for epoch in range(epochs)
            for index in epoch_batches(
                len(self.train.targets), self.config.batch_size, self.seed, first_epoch + epoch
            )
        ]
        learner.scores.binarise(sparsity)
        for step, index in enumerate(batches):
            decay = scale * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
            for group, rate in zip(learner.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * decay
            activation, _, targets = self.train.batch(index)
            learner.optimizer.zero_grad()
            learner.loss(learner.forward(activation), targets).backward()
            learner.optimizer.step()
            if step % self.config.binarise_every == 0 and step < 0.7 * len(batches):
                learner.scores.binarise(sparsity)

    @torch.no_grad()
    def measure_accuracy(self) -> None:
        """Balanced accuracy on the domain's test images; no monitor sees it."""
        parts = torch.arange(len(self.test.targets)).split(256)
        outputs = torch.cat([self.learner.probe(self.test.batch(i)[0])[1] for i in parts])
        classes = self.bank.task.num_outputs
        matrix = confusion_matrix(self.test.targets.numpy(), outputs.argmax(1).numpy(), classes)
        self.accuracy.append(balanced_accuracy(matrix))

    def state(self, step: int, sparsity: float, others: Sequence[Member]) -> TicketState:
        """What monitors see."""
        features, outputs = self.learner.probe(self.probe)
        _, ahead = self.learner.probe(self.probe, sparsity=1 - (1 - sparsity) / 2)
        return TicketState(
            step=step,
            total_steps=0,
            sparsity=sparsity,
            mask=self.learner.scores.mask(),
            others=tuple(m.learner.scores.mask() for m in others if m is not self),
            features=features,
            outputs=outputs,
            ahead=ahead,
        )


def drive(kind: str, seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One backbone, one seed: the curves of three tickets."""
    setup = SETUPS[kind]
    stream = build_stream(
        DigitsConfig(
            seed=seed,
            domains=setup.domains,
            images_per_domain=setup.images,
            test_images_per_domain=TESTS,
        )
    )
    bank = TicketBank(build_backbone("glyphnet", **setup.backbone), Classification(10))
    config = TicketConfig(start="cold", collapse=None)
    members = [Member(bank, config, stream, i, seed) for i in range(len(setup.domains))]
    for step, sparsity in enumerate(levels(args.quick)):
        epochs = args.epochs * (WARM_UP if step == 0 else 1)
        for member in members:
            member.learn(
                sparsity, epochs=epochs, scale=1 if step == 0 else 0.5, first_epoch=1000 * step
            )
            member.measure_accuracy()
        for member in members:
            state = member.state(step, sparsity, members)
            for monitor in member.monitors.values():
                monitor.check(state, target=1.0)
        shown = " ".join(f"{m.accuracy[-1]:.3f}" for m in members)
        print(f"{kind} seed {seed} sparsity {sparsity:.4f}: {shown}", flush=True)
    return [
        {
            "backbone": kind,
            "seed": seed,
            "domain": domain,
            "sparsity": levels(args.quick),
            "balanced_accuracy": member.accuracy,
            "traces": {
                name: {d: member.monitors[name, d].trace for d in DIRECTIONS}
                for name in COLLAPSE_SCORES
            },
        }
        for domain, member in zip(setup.domains, members, strict=True)
    ]


def fall(accuracy: Sequence[float]) -> int | None:
    """The first step from which accuracy never again comes within two points of its best."""
    last = len(accuracy) - 1
    smooth = [
        statistics.median(accuracy[max(0, i - 1) : i + 2]) if 0 < i < last else accuracy[i]
        for i in range(last + 1)
    ]
    best = max(smooth)
    near = [i for i, value in enumerate(smooth) if value > best - FALL]
    return near[-1] + 1 if near[-1] + 1 < len(accuracy) else None


def learned(curves: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of tickets that learned enough to be able to fall."""
    return [curve for curve in curves if max(curve["balanced_accuracy"]) >= LEARNED]


def judge(curves: Sequence[dict[str, Any]], score: str, direction: str) -> dict[str, Any]:
    """How early a score's first flag comes, over all tickets of one backbone."""
    lead, late, false, too_soon = [], 0, 0, 0
    for curve in learned(curves):
        fell = fall(curve["balanced_accuracy"])
        if fell is not None and fell < FIRST:
            too_soon += 1
            continue
        trace = curve["traces"][score][direction]
        flagged = [step for step, row in enumerate(trace) if row["flagged"]]
        first = flagged[0] if flagged else None
        if fell is None or first is None:
            false += first is not None
            late += fell is not None
            continue
        lead.append(fell - first)
        late += first > fell
        false += fell - first > EARLY
    return {
        "tickets": len(learned(curves)),
        "steps_before_fall": lead,
        "mean_steps_before_fall": round(statistics.fmean(lead), 2) if lead else None,
        "late_or_never": late,
        "fell_before_a_threshold": too_soon,
        "false": false,
    }


def change_through_fall(curves: Sequence[dict[str, Any]], score: str) -> dict[str, float]:
    """Mean of a score two steps before the fall, at the fall, and two steps after it."""
    places: dict[str, list[float]] = {"before": [], "at": [], "after": []}
    for curve in learned(curves):
        fell = fall(curve["balanced_accuracy"])
        values = [row["score"] for row in curve["traces"][score]["drop"]]
        if fell is None:
            continue
        for name, step in (("before", fell - 2), ("at", fell), ("after", fell + 2)):
            if 0 <= step < len(values) and values[step] is not None:
                places[name].append(values[step])
    return {name: round(statistics.fmean(found), 4) for name, found in places.items() if found}


def plot(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """One row for each backbone, one panel for each score, the tickets of the first seed."""
    kinds = list(dict.fromkeys(curve["backbone"] for curve in curves))
    names = list(COLLAPSE_SCORES)
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False}):
        figure = Figure(figsize=(3.1 * len(names), 2.5 * len(kinds) + 0.4), layout="constrained")
        panels = figure.subplots(len(kinds), len(names), squeeze=False, sharex=True)
        for row, kind in zip(panels, kinds, strict=True):
            mine = [c for c in curves if c["backbone"] == kind]
            mine = [c for c in mine if c["seed"] == mine[0]["seed"]]
            for panel, name in zip(row, names, strict=True):
                _panel(panel, mine, name)
                panel.set_title(f"{name}, {kind}", loc="left")
        for panel in panels[-1]:
            panel.set_xlabel("sparsity, %")
        figure.suptitle(
            "solid: score; dotted: chance; dashed: balanced accuracy; triangle: first flag; "
            "cross: two points below the best for good",
            fontsize=8,
        )
        figure.savefig(path, dpi=90)


def _panel(panel: Axes, curves: Sequence[dict[str, Any]], name: str) -> None:
    """Score (solid), chance (dotted), balanced accuracy (dashed), first flag and fall."""
    for curve, colour in zip(curves, ("#0072B2", "#D55E00", "#009E73"), strict=False):
        x = [-math.log2(1 - s) for s in curve["sparsity"]]
        trace = curve["traces"][name]["drop"]
        values = [math.nan if row["score"] is None else row["score"] for row in trace]
        chance = [math.nan if row["chance"] is None else row["chance"] for row in trace]
        panel.plot(x, values, color=colour, label=curve["domain"])
        panel.plot(x, chance, ":", color=colour, linewidth=0.8)
        panel.plot(x, curve["balanced_accuracy"], "--", color=colour, linewidth=0.9)
        first = next((i for i, row in enumerate(trace) if row["flagged"]), None)
        if first is not None:
            panel.plot(x[first], values[first], "v", color=colour, markersize=7)
        fell = fall(curve["balanced_accuracy"])
        if fell is not None:
            panel.plot(x[fell], curve["balanced_accuracy"][fell], "x", color=colour)
    ticks = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.998)
    panel.set_xticks([-math.log2(1 - s) for s in ticks], [f"{100 * s:g}" for s in ticks])
    panel.tick_params(axis="x", labelrotation=60)
    panel.set_ylim(-0.05, 1.05)


def main() -> None:
    """Run the sweep and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, half the steps")
    parser.add_argument("--backbones", default=",".join(SETUPS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=2, help="passes at each step")
    parser.add_argument("--plot", type=Path, default=Path("collapse_sweep.png"))
    parser.add_argument("--curves", type=Path)
    parser.add_argument("--stored", type=Path, nargs="+", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [0] if args.quick else [int(seed) for seed in args.seeds.split(",")]
    start, curves = time.perf_counter(), []
    for path in args.stored:
        curves += json.loads(path.read_text(encoding="utf-8"))
    for kind in [] if args.stored else args.backbones.split(","):
        for seed in seeds:
            curves += drive(kind, seed, args)
            if args.curves is not None:
                args.curves.write_text(json.dumps(curves), encoding="utf-8")
    plot(curves, args.plot)
    report: dict[str, Any] = {}
    for kind in dict.fromkeys(curve["backbone"] for curve in curves):
        mine = [curve for curve in curves if curve["backbone"] == kind]
        judged = learned(mine)
        falls = [fall(curve["balanced_accuracy"]) for curve in judged]
        report[kind] = {
            "not_judged": len(mine) - len(judged),
            "falls_at_sparsity": [
                None if f is None else round(c["sparsity"][f], 4)
                for f, c in zip(falls, judged, strict=True)
            ],
            "scores": {
                name: {
                    **{direction: judge(mine, name, direction) for direction in DIRECTIONS},
                    "through_fall": change_through_fall(mine, name),
                }
                for name in COLLAPSE_SCORES
            },
        }
    facts = {
        "seconds": round(time.perf_counter() - start),
        "seeds": sorted({c["seed"] for c in curves}),
        "plot": str(args.plot),
    }
    print(json.dumps({"benchmark": "collapse_sweep", **facts, "backbones": report}))


if __name__ == "__main__":
    main()
