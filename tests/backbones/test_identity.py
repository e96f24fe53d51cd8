from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from rtl_continual.backbones import Backbone, InputSpec, build_backbone
from rtl_continual.errors import DataError, RTLError
from rtl_continual.routing import FlatRouter
from rtl_continual.streams import ArraySet
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, commit_ticket, learn_ticket


def make(**options: object) -> Backbone:
    return build_backbone("glyphnet", **{"weights": "random:0", "width": 4, **options})


def test_another_process_finds_the_same_identity_without_torchvision() -> None:
    code = (
        "import sys; from rtl_continual.backbones import build_backbone; "
        "print(build_backbone('glyphnet', weights='random:0', width=4).identity); "
        "sys.exit('torchvision' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == make().identity


def test_identity_tells_structure_apart() -> None:
    variants = [
        make(),
        make(split="stem"),
        make(taps=["stem"]),
        make(weights="random:1"),
        make(width=8),
    ]
    assert len({backbone.identity for backbone in variants}) == len(variants)


def test_identity_changes_with_every_weight_and_buffer() -> None:
    backbone = make()
    before = backbone.compute_identity()
    for name, tensor in backbone.state_dict().items():
        first = tensor.reshape(-1)[-1]
        kept = first.clone()
        first.add_(1)
        assert backbone.compute_identity() != before, name
        first.copy_(kept)
    assert backbone.compute_identity() == before == backbone.identity


def test_frozen_means_frozen(family: Backbone) -> None:
    assert not any(parameter.requires_grad for parameter in family.parameters())
    family.train()
    assert not any(module.training for module in family.modules())


def test_learning_a_ticket_leaves_the_backbone_as_it_was() -> None:
    backbone = make()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    identity = backbone.compute_identity()
    bank = TicketBank(backbone, Classification(2), FlatRouter())
    rng = np.random.default_rng(0)
    targets = np.arange(24) % 2
    for name, level in (("dark", 60), ("light", 160)):
        pixels = rng.integers(0, 60, (24, 3, 32, 32)) + level + 30 * targets[:, None, None, None]
        data = ArraySet(pixels.astype(np.uint8), targets, 0)
        config = TicketConfig(epochs=2, batch_size=8, sparsity=0.5)
        ticket, learner = learn_ticket(bank, data, config, info=TicketInfo(name=name), seed=0)
        commit_ticket(bank, ticket, learner)
        bank.predict(torch.from_numpy(pixels.astype(np.uint8)))
    assert bank[1].mask.kept < bank.layout.total
    assert not all(torch.equal(t, before[f"body.{n}"]) for n, t in bank[1].norm.items())
    assert backbone.compute_identity() == identity
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(module.training for module in backbone.modules())


def test_any_modules_make_a_backbone(images: torch.Tensor) -> None:
    trunk = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3))
    body = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    backbone = Backbone(
        "mine",
        trunk,
        body,
        feature_dim=5,
        input_spec=InputSpec(1, (32, 32), (0.5,), (0.5,)),
        taps=["0", "2"],
    )
    out = backbone.run_trunk(images[:, :1])
    assert backbone.body(out.activation).shape == (8, 5)
    assert out.router_features.shape == (8, backbone.router_feature_dim) == (8, 2 * (4 + 6))
    floats = backbone.run_trunk(images[:, :1] / 255)
    assert torch.equal(floats.activation, out.activation)
    with pytest.raises(RTLError, match="tap '3' is no stage of the trunk"):
        Backbone("mine", trunk, body, feature_dim=5, taps=["3"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 3, 32, 32)), "must be a tensor .* got ndarray"),
        (torch.zeros(3, 32, 32), r"got \[3, 32, 32\]"),
        (torch.zeros(1, 1, 32, 32), r"got \[1, 1, 32, 32\]"),
        (torch.zeros(1, 3, 28, 28), r"must be \[batch, 3, 32, 32\], got \[1, 3, 28, 28\]"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "got torch.int64"),
    ],
)
def test_other_images_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make().run_trunk(images)
