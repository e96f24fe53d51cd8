from __future__ import annotations

import copy

import pytest
import torch

from rtl_continual.backbones import (
    Backbone,
    RecordedBackbone,
    backbone_flops,
    build_backbone,
    statistics_flops,
)
from rtl_continual.errors import DataError


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture
def original() -> Backbone:
    return build_backbone("glyphnet", weights="random:0", split="block1", taps=["stem", "block1"])


def test_records_give_what_images_give(original: Backbone, images: torch.Tensor) -> None:
    recorded = RecordedBackbone(original, images)
    got = recorded.run_trunk(recorded.record(images))
    wanted = original.run_trunk(images)
    assert torch.equal(got.activation, wanted.activation)
    assert torch.equal(got.router_features, wanted.router_features)
    # Kernels round by the order of channels in memory, which is last here.
    torch.testing.assert_close(copy.deepcopy(recorded)(recorded.record(images)), original(images))


def test_it_passes_for_its_original(original: Backbone, images: torch.Tensor) -> None:
    recorded = RecordedBackbone(original, images)
    assert recorded.identity == original.identity
    assert (recorded.name, recorded.split, recorded.taps) == (
        original.name,
        original.split,
        original.taps,
    )
    assert recorded.router_feature_dim == original.router_feature_dim
    assert backbone_flops(recorded) == backbone_flops(original)
    assert statistics_flops(recorded) == statistics_flops(original)
    counted = sum(t.numel() for t in recorded.trunk.state_dict().values())
    assert counted == sum(t.numel() for t in original.trunk.state_dict().values())


def test_a_changed_body_changes_its_identity(original: Backbone, images: torch.Tensor) -> None:
    recorded = copy.deepcopy(RecordedBackbone(original, images))
    with torch.no_grad():
        next(recorded.body.parameters()).add_(1)
    assert recorded.compute_identity() != original.compute_identity()


def test_images_are_no_records(original: Backbone, images: torch.Tensor) -> None:
    with pytest.raises(DataError, match="images must be"):
        RecordedBackbone(original, images)(images)
