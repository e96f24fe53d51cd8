"""A stream of two domains of 8x8 images, and a backbone of two convolutions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rtl_continual.backbones import Backbone, InputSpec
from rtl_continual.routing import FlatRouter
from rtl_continual.streams import ArraySet, Experience, Stream
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank
from rtl_continual.training import TicketConfig

with warnings.catch_warnings():
    # Importing Avalanche looks for the QP solvers that only its GEM needs.
    warnings.filterwarnings("ignore", message="no QP solver found")
    from rtl_continual.avalanche import RoutedTickets, domain_benchmark

CLASSES = 4
DOMAINS = ("red", "green")


def part(domain: int, count: int, seed: int) -> ArraySet:
    """Noise with a bright row for the class and a bright channel for the domain."""
    rng = np.random.default_rng(seed * 10 + domain)
    targets = np.arange(count) % CLASSES
    images = rng.integers(0, 60, (count, 3, 8, 8))
    images[:, domain] += 90
    images[np.arange(count), :, 2 * targets] += 80
    return ArraySet(images.astype(np.uint8), targets, domain)


@pytest.fixture
def stream() -> Stream:
    # 37 samples: the last batch of a 12-image epoch has one sample and joins the one before it.
    return Stream(
        name="toy",
        classes=tuple("abcd"),
        domains=DOMAINS,
        experiences=tuple(
            Experience(name, part(d, 37, 1), part(d, 12, 2)) for d, name in enumerate(DOMAINS)
        ),
        tests={name: part(d, 20, 3) for d, name in enumerate(DOMAINS)},
    )


@pytest.fixture
def benchmark_(stream: Stream) -> Any:
    return domain_benchmark(stream)


@pytest.fixture
def backbone() -> Backbone:
    return make_backbone()


def make_backbone() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return Backbone(
            "toy",
            nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
            nn.Sequential(
                nn.Conv2d(6, 12, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(12),
                nn.ReLU(),
                nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Flatten(),
            ),
            feature_dim=64,
            input_spec=InputSpec(size=(8, 8)),
        )


@pytest.fixture
def config() -> TicketConfig:
    return TicketConfig(epochs=2, batch_size=12, sparsity=0.5)


@pytest.fixture
def make(backbone: Backbone, config: TicketConfig) -> Callable[..., RoutedTickets]:
    """Builds a strategy that measures nothing, unless it is told otherwise."""

    def build(**options: Any) -> RoutedTickets:
        options = {"config": config, "seed": 5, "evaluator": None} | options
        if "bank" not in options:
            options = {"backbone": backbone, "num_classes": CLASSES} | options
        return RoutedTickets(**options)

    return build


@pytest.fixture
def empty_bank(backbone: Backbone) -> TicketBank:
    return TicketBank(backbone, Classification(CLASSES), FlatRouter())
