"""A stream of three domains and a network of 3,000 weights: a method learns it in a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rtl_continual.backbones import Backbone, InputSpec
from rtl_continual.routing import FlatRouterConfig
from rtl_continual.runs._method import RunContext
from rtl_continual.streams import ArraySet, Experience, Stream
from rtl_continual.training import TicketConfig

CLASSES = 3
DOMAINS = ("red", "green", "blue")


def images_of(domain: int, count: int, seed: int) -> ArraySet:
    """The bright quadrant tells the class, and which class it tells differs by domain."""
    rng = np.random.default_rng([seed, domain])
    targets = np.arange(count) % CLASSES
    images = rng.integers(0, 60, (count, 3, 8, 8))
    images[:, domain] += 90
    for row, target in enumerate(targets):
        quadrant = (target + domain) % CLASSES
        top, left = 4 * (quadrant // 2), 4 * (quadrant % 2)
        images[row, :, top : top + 4, left : left + 4] += 100
    return ArraySet(images.astype(np.uint8), targets, domain)


def make_backbone() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        body = nn.Sequential(
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
    return Backbone("tiny", trunk, body, feature_dim=64, input_spec=InputSpec(size=(8, 8)))


@pytest.fixture(scope="session")
def stream() -> Stream:
    return Stream(
        name="quadrants",
        classes=("a", "b", "c"),
        domains=DOMAINS,
        experiences=tuple(
            Experience(name, images_of(d, 49, seed=0), images_of(d, 12, seed=1))
            for d, name in enumerate(DOMAINS)
        ),
        tests={name: images_of(d, 30, seed=2) for d, name in enumerate(DOMAINS)},
    )


@pytest.fixture
def make_context(stream: Stream) -> Callable[..., RunContext]:
    def make(**changes: Any) -> RunContext:
        values: dict[str, Any] = {
            "stream": stream,
            "make_backbone": make_backbone,
            "epochs": 6,
            "batch_size": 16,
            "seed": 0,
            "sections": {"tickets": TicketConfig(), "router": FlatRouterConfig()},
            "emit": lambda *_, **__: None,
            "advance": lambda _: None,
        }
        return RunContext(**{**values, **changes})

    return make
