from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision.ops import StochasticDepth

from rtl_continual.backbones import (
    Backbone,
    BackboneConfig,
    InputSpec,
    backbone_flops,
    backbone_names,
    build_backbone,
    split_names,
)
from rtl_continual.errors import RTLError


def test_default_is_glyphnet_with_its_built_in_weights() -> None:
    backbone = build_backbone(BackboneConfig())
    assert (backbone.name, backbone.weights, backbone.split) == ("glyphnet", "built-in", "block1")
    assert [name for name, _ in backbone.trunk.named_children()] == ["stem", "block1"]
    assert [name for name, _ in backbone.body.named_children()] == ["block2", "block3", "pool"]
    assert backbone.identity != build_backbone("glyphnet", weights="random:0").identity


def test_overrides_win_over_a_config() -> None:
    config = BackboneConfig(weights="random:0", split="block2")
    backbone = build_backbone(config, split="stem", width=8)
    assert (backbone.split, backbone.feature_dim) == ("stem", 32)


@pytest.mark.parametrize("split", ["stem", "block1", "block2"])
def test_a_split_moves_the_cut_and_leaves_the_network(split: str, images: torch.Tensor) -> None:
    backbone = build_backbone("glyphnet", weights="random:0", split=split)
    whole = build_backbone("glyphnet", weights="random:0")
    assert split_names("glyphnet") == ("stem", "block1", "block2")
    assert list(dict(backbone.trunk.named_children()))[-1] == split
    assert torch.equal(backbone(images), whole(images))


def test_taps_read_their_stages_in_the_networks_order(images: torch.Tensor) -> None:
    both = build_backbone("glyphnet", weights="random:0", taps=["block1", "stem"])
    stem = build_backbone("glyphnet", weights="random:0", taps=["stem"])
    last = build_backbone("glyphnet", weights="random:0")
    assert (both.taps, last.taps) == (("stem", "block1"), None)
    parts = [net.run_trunk(images).router_features for net in (stem, last)]
    assert torch.equal(both.run_trunk(images).router_features, torch.cat(parts, dim=1))
    assert both.router_feature_dim == sum(part.shape[1] for part in parts)


def test_a_group_names_its_last_stage() -> None:
    with torch.device("meta"):
        backbone = build_backbone("resnet50", weights="random:0", split="layer2", taps=["layer1"])
    assert (backbone.split, backbone.taps) == ("layer2_3", ("layer1_2",))


@pytest.mark.parametrize("name", backbone_names())
def test_every_architecture_can_be_built(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, weights="random:0")
    assert len(backbone.trunk) >= 2
    assert backbone.split in split_names(name)
    # What a ticket learns must not hang on the global random state.
    for module in backbone.body.modules():
        assert not isinstance(module, (nn.Dropout, StochasticDepth)) or module.p == 0


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "wide_resnet101_2",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "efficientnet_b1",
        "efficientnet_v2_s",
        "convnext_tiny",
        "vit_b_16",
    ],
)
def test_default_trunks_take_a_sensible_share_of_the_work(name: str) -> None:
    shapes = []
    with torch.device("meta"):
        backbone = build_backbone(name, weights="random:0")
        backbone.body.register_forward_hook(lambda *call: shapes.append(call[-1].shape))
        flops = backbone_flops(backbone)
    assert 0.1 <= flops["trunk"] / flops["total"] <= 0.25
    assert shapes == [(1, backbone.feature_dim)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnt18"}, "unknown backbone 'resnt18'; did you mean 'resnet18'"),
        ({"split": "block3"}, "unknown split 'block3'; did you mean 'block2'"),
        ({"split": "stem", "taps": ["block1"]}, "unknown tap 'block1'. Available: stem"),
        ({"width": 8, "weights": "built-in"}, "have width 24, not 8"),
        ({"name": "resnet18", "width": 8}, "'resnet18' has no width"),
        ({"name": "resnet18", "weights": "built-in"}, "'resnet18' has no built-in weights"),
        ({"name": "vit_b_32", "input_size": 40}, "multiple of its patches of 32 pixels, got 40"),
        ({"weights": "random:-1"}, "a seed is a whole number"),
        ({"colour": "red"}, "backbone.colour: Extra inputs"),
        ({"width": "wide"}, "backbone.width: .*, got 'wide'"),
        ({"taps": []}, "backbone.taps: .*at least 1 item"),
    ],
)
def test_a_wrong_option_is_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RTLError, match=message):
        build_backbone(
            **{"config": options.pop("name", "glyphnet"), "weights": "random:0", **options}
        )


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        BackboneConfig().width = 8  # type: ignore[misc]


def test_input_size_is_checked_by_the_backbone(images: torch.Tensor) -> None:
    backbone = build_backbone("mobilenet_v3_small", weights="random:0", input_size=48)
    assert backbone.input_spec.size == (48, 48)
    with pytest.raises(RTLError, match=r"\[batch, 3, 48, 48\], got \[8, 3, 32, 32\]"):
        backbone.run_trunk(images)


def test_whole_numbers_as_mean_and_deviation_do_not_round_images() -> None:
    spec = InputSpec(size=(2, 2), mean=(0, 0, 0), std=(1, 1, 1))
    backbone = Backbone("flat", nn.Flatten(), nn.Linear(12, 4), feature_dim=4, input_spec=spec)
    images = torch.full((1, 3, 2, 2), 0.5)
    assert torch.equal(backbone.normalise(images), images)


def test_an_empty_name_is_no_stage() -> None:
    with pytest.raises(RTLError, match="unknown end ''"):
        build_backbone("glyphnet", weights="random:0", end="")
