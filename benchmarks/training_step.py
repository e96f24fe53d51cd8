"""What one step of ticket training costs beside one step of dense fine-tuning.

Baseline ``dense``: forward, backward and Adam over all weights and a head of the same network on
the same images. ``ticket``: the trunk, then ``TicketLearner.step`` (scores, mask, norm, head, a
new mask every fifth step). ``cached``: the same on kept trunk activations; ``trunk``: the trunk
alone. ``binarise`` compares one new mask with one ticket step. ``shared_trunk`` compares three
tickets' steps on one batch with the trunk run once with as many that each run it. ``strategy``
compares the Avalanche strategy without metrics with a bare loop over the same learner, on a
processor alone. A CUDA device has images of 224 pixels.

Usage: python benchmarks/training_step.py [--quick] [--threads N] [--device cuda] [--models A,B]
    [--batch N] [--no-strategy]
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from _banks import CLASSES, speed_backbone
from _timing import Report, parser
from torch import nn

from rtl_continual.backbones import Backbone
from rtl_continual.routing import FlatRouter
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank
from rtl_continual.training import TicketConfig, TicketLearner, epoch_batches

PIXELS = {
    "glyphnet": 32,
    "resnet18": 96,
    "resnet50": 64,
    "mobilenet_v2": 64,
    "efficientnet_lite0": 128,
    "vit_b_16": 224,
}

SHARING = "resnet18"
"""The network on which three tickets are learned at once."""


def dense_step(
    backbone: Backbone, images: torch.Tensor, targets: torch.Tensor
) -> Callable[[], None]:
    """One step of fine-tuning a copy of the network."""
    network = nn.Sequential(
        backbone.with_body_weights({}, source="copy"), nn.Linear(backbone.feature_dim, CLASSES)
    ).to(images.device)
    network.requires_grad_(True)
    for module in network.modules():
        module.training = True
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    body, head = network[0], network[1]

    def run() -> None:
        optimizer.zero_grad()
        features = body.body(body.trunk(body.normalise(images)))
        nn.functional.cross_entropy(head(features), targets).backward()
        optimizer.step()

    return run


def measure_model(report: Report, name: str, batch: int) -> None:
    """Ratios of one network."""
    device = report.options.device
    pixels = 224 if device == "cuda" and name != "glyphnet" else PIXELS[name]
    backbone = speed_backbone(name, pixels, device)
    bank = TicketBank(backbone, Classification(CLASSES))
    config = TicketConfig()
    images = torch.rand(batch, 3, pixels, pixels, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(CLASSES, (batch,), device=device)
    learner = TicketLearner(bank, config, total_steps=10**6, seed=0)
    with torch.no_grad():
        kept = bank.run_trunk(images).activation

    def trunk() -> torch.Tensor:
        with torch.no_grad():
            return bank.run_trunk(images).activation

    def ticket() -> None:
        learner.step(trunk(), targets)

    cases = {
        "dense": dense_step(backbone, images, targets),
        "ticket": ticket,
        "cached": lambda: learner.step(kept, targets),
        "trunk": trunk,
    }
    limits = {"ticket": 1.15, "cached": 1.0}
    report.compare(f"{name}/{pixels}px/batch{batch}", cases, "dense", at_most=limits)
    if name == SHARING:
        three = [TicketLearner(bank, config, total_steps=10**6, seed=i) for i in range(3)]

        def together() -> None:
            activation = trunk()
            for one in three:
                one.step(activation, targets)

        alone = {"alone": lambda: [one.step(trunk(), targets) for one in three]}
        key = f"{name}/{pixels}px/batch{batch}"
        report.compare(
            key, alone | {"shared_trunk": together}, "alone", at_most={"shared_trunk": 1}
        )
    binarise = {"step": cases["cached"], "binarise": lambda: learner.scores.binarise(0.9)}
    report.compare(f"{name}/{pixels}px/batch{batch}", binarise, "step")


def measure_strategy(report: Report) -> None:
    """Seconds of a training experience, in the strategy and in a bare loop over one learner."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from avalanche.benchmarks import benchmark_from_datasets
        from avalanche.benchmarks.utils import as_classification_dataset

        from rtl_continual.avalanche import RoutedTickets
    # About 20 ms a step on one core of a server.
    pixels, batch = 40, 32
    count = batch * (8 if report.options.quick else 20)
    images = torch.rand(count, 3, pixels, pixels)
    targets = torch.from_numpy(np.arange(count) % CLASSES)
    data = torch.utils.data.TensorDataset(images, targets)
    data.targets = targets.tolist()  # type: ignore[attr-defined]
    backbone = speed_backbone("glyphnet", pixels)
    config = TicketConfig(epochs=1, batch_size=batch, shift=0, gate_weight=0.0)
    spent: dict[str, list[float]] = {"bare": [], "strategy": []}

    def bare_step(learner: TicketLearner, x: torch.Tensor, y: torch.Tensor) -> None:
        with torch.no_grad():
            activation = learner.bank.run_trunk(x).activation
        learner.step(activation, y)

    def bare() -> float:
        bank = TicketBank(backbone, Classification(CLASSES), FlatRouter())
        learner = TicketLearner(bank, config, total_steps=count // batch, seed=0)
        start = time.process_time()
        for index in epoch_batches(count, batch, 0, 0):
            rows = [data[i] for i in index.tolist()]
            x, y = torch.utils.data.default_collate(rows)
            bare_step(learner, x, y)
        return time.process_time() - start

    class Clock:
        """Times the epochs alone: the ticket's set-up and its commit are the same outside."""

        started = ended = 0.0

        def before_training_epoch(self, strategy: object, **kwargs: object) -> None:
            self.started = time.process_time()

        def after_training_epoch(self, strategy: object, **kwargs: object) -> None:
            self.ended = time.process_time()

    from avalanche.core import SupervisedPlugin

    class ClockPlugin(Clock, SupervisedPlugin):
        pass

    def strategy() -> float:
        clock = ClockPlugin()
        learn = RoutedTickets(
            backbone=backbone,
            num_classes=CLASSES,
            config=config,
            plugins=[clock],
            evaluator=None,
        )
        stream = benchmark_from_datasets(train=[as_classification_dataset(data)])
        learn.train(stream.train_stream[0])
        return clock.ended - clock.started

    # A pair of epochs is noisy: twice as many as usual.
    for index in range(2 * report.rounds + 1):
        turns = [("bare", bare), ("strategy", strategy)]
        for name, run in turns if index % 2 else turns[::-1]:
            gc.collect()  # What the last run left is not this one's work.
            seconds = run()
            if index:
                spent[name].append(seconds)
    pairs = [a / b for a, b in zip(spent["strategy"], spent["bare"], strict=True)]
    report.add_ratio("strategy_over_bare_loop", pairs, 1.05)
    step = 1e3 * float(np.median(spent["bare"])) / (count // batch)
    report.add_value("bare_loop_step", step, "ms")


def main() -> None:
    """Run it."""
    line = parser(__doc__)
    line.add_argument("--models", help="names, separated by commas; none: the strategy alone")
    line.add_argument(
        "--batch", type=int, help="images per step; default 32 (ViT 8), quick 16, CUDA 64"
    )
    line.add_argument("--no-strategy", action="store_true", help="leave the strategy out")
    options = line.parse_args()
    report = Report("training_step", options)
    models = options.models or ("glyphnet,resnet18" if options.quick else ",".join(PIXELS))
    for name in models.split(",") if models != "none" else ():
        usual = 64 if options.device == "cuda" else 32
        # A step of a transformer at 224 pixels takes seconds on a processor.
        slow = name == "vit_b_16" and options.device == "cpu"
        measure_model(report, name, options.batch or (usual // 4 if slow else usual))
    if not options.no_strategy and options.device == "cpu":
        measure_strategy(report)
    report.finish()


if __name__ == "__main__":
    main()
