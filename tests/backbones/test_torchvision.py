from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from rtl_continual.backbones import build_backbone, split_names
from rtl_continual.backbones._torchvision import TORCHVISION


def calibrate(network: nn.Module, images: torch.Tensor) -> None:
    """Give batch norms the images' statistics: with fresh ones features vanish."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(images)
    network.eval()


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"],
)
@torch.no_grad()
def test_stages_in_order_are_torchvisions_own_features(name: str) -> None:
    network = TORCHVISION[name].build(None, 24)
    images = torch.randn(2, 3, 40, 40)
    calibrate(network.module, images)
    features = network.module(images)  # its classifier is an identity
    x = nn.Sequential(network.take_apart())(images)
    assert features.shape == (2, network.feature_dim)
    torch.testing.assert_close(x, features, rtol=0, atol=1e-6)
    assert features.std() > 1e-2


@pytest.mark.parametrize("name", ["tiny_convnext", "tiny_vit"])
def test_tiny_networks_of_torchvisions_classes_agree_with_their_stages(
    name: str, tiny: Callable[[str], tuple[nn.Module, Callable[..., OrderedDict[str, nn.Module]]]]
) -> None:
    network, take_apart = tiny(name)
    images = torch.randn(3, 3, 32, 32)
    features = network.eval()(images)
    x = nn.Sequential(take_apart(network)).eval()(images)
    torch.testing.assert_close(x, features, rtol=0, atol=1e-6)
    assert features.std() > 1e-2


def test_backbone_gives_torchvisions_features_on_normalised_images(images: torch.Tensor) -> None:
    torch.manual_seed(7)
    reference = torchvision.models.resnet18()
    reference.fc = nn.Identity()
    x = images / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    x = x / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    features = reference.eval()(x)
    for split in ("stem", "layer3_0"):
        backbone = build_backbone("resnet18", weights="random:7", split=split)
        torch.testing.assert_close(backbone(images), features, rtol=0, atol=1e-6)


def test_a_vision_transformer_splits_between_blocks() -> None:
    with torch.device("meta"):
        backbone = build_backbone("vit_b_32", weights="random:0", input_size=64, split="block3")
        out = backbone.run_trunk(torch.zeros(2, 3, 64, 64))
        assert backbone.body(out.activation).shape == (2, 768)
    assert out.activation.shape == (2, 1 + 4, 768)
    assert out.router_features.shape == (2, 2 * 768)
    assert list(dict(backbone.body.named_children())) == [
        *(f"block{i}" for i in range(4, 13)),
        "pool",
    ]


def test_every_split_leaves_something_to_mask() -> None:
    assert split_names("convnext_tiny")[-1] == "stage4_1"
    assert split_names("mobilenet_v3_small")[-1] == "pool"
    assert split_names("mobilenet_v2")[-1] == "block17"
    assert split_names("vit_b_32")[-1] == "block11"
