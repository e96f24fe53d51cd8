"""A tiny backbone and a few hundred images that it can learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from rtl_continual.backbones import Backbone, InputSpec, build_backbone
from rtl_continual.routing import FlatRouter
from rtl_continual.streams import ArraySet
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank

CLASSES = 4

MakeData = Callable[..., ArraySet]


@pytest.fixture
def make_data() -> MakeData:
    """Noise with a bright square in the corner that its class says; each domain has a colour."""

    def make(domain: int = 0, count: int = 96, *, seed: int = 0) -> ArraySet:
        generator = np.random.default_rng([seed, domain])
        images = generator.integers(0, 60, (count, 3, 32, 32))
        targets = np.arange(count) % CLASSES
        for image, target in zip(images, targets, strict=True):
            top, left = 16 * (target // 2), 16 * (target % 2)
            image[:, top : top + 16, left : left + 16] += 120
        images[:, domain % 3] += 60
        return ArraySet(images.astype(np.uint8), targets, domain)

    return make


@pytest.fixture
def backbone(make_data: MakeData) -> Backbone:
    """Random weights, and running statistics that fit them, as a pretrained network's would."""
    backbone = build_backbone("glyphnet", weights="random:0", width=4)
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    with torch.no_grad():
        backbone(make_data(2).images)
    for norm in norms:
        norm.momentum, norm.training = 0.1, False
    return backbone


@pytest.fixture
def bank(backbone: Backbone) -> TicketBank:
    return TicketBank(backbone, Classification(CLASSES), FlatRouter())


@pytest.fixture
def dropout_bank() -> TicketBank:
    """A backbone of the user's own: no convolutions, no batch norm, and dropout in its body."""
    trunk = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 24))
    body = nn.Sequential(
        nn.Linear(24, 32), nn.LayerNorm(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 16)
    )
    backbone = Backbone("own", trunk, body, feature_dim=16, input_spec=InputSpec(size=(32, 32)))
    return TicketBank(backbone, Classification(CLASSES))
