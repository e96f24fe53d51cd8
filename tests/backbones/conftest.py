"""Small networks that stand for the families."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import ConvNeXt, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from rtl_continual.backbones import Backbone, InputSpec, build_backbone
from rtl_continual.backbones._torchvision import _convnext_stages, _vit_stages

Stages = OrderedDict[str, nn.Module]

FAMILIES = (
    "glyphnet",
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "tiny_convnext",
    "tiny_vit",
)


def _tiny_convnext() -> tuple[nn.Module, Callable[[nn.Module], Stages]]:
    settings = [CNBlockConfig(16, 24, 2), CNBlockConfig(24, 32, 2), CNBlockConfig(32, None, 1)]
    network = ConvNeXt(settings)
    network.classifier[2] = nn.Identity()
    return network, _convnext_stages


def _tiny_vit() -> tuple[nn.Module, Callable[[nn.Module], Stages]]:
    network = VisionTransformer(
        image_size=32, patch_size=8, num_layers=4, num_heads=4, hidden_dim=32, mlp_dim=64
    )
    network.heads.head = nn.Identity()
    return network, _vit_stages


TINY = {"tiny_convnext": _tiny_convnext, "tiny_vit": _tiny_vit}
"""torchvision's own classes with few and narrow blocks: 32 features, images of 32 pixels."""


@pytest.fixture
def tiny() -> Callable[[str], tuple[nn.Module, Callable[[nn.Module], Stages]]]:
    """A tiny network without classifier and how to take it apart, by name."""
    return lambda name: TINY[name]()


def _build(name: str) -> Backbone:
    if name not in TINY:
        return build_backbone(name, weights="random:0")
    network, take_apart = TINY[name]()
    stages = list(take_apart(network).items())
    trunk, body = (nn.Sequential(OrderedDict(part)) for part in (stages[:2], stages[2:]))
    return Backbone(name, trunk, body, feature_dim=32, input_spec=InputSpec(size=(32, 32)))


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Backbone:
    """A family's backbone with random weights and biases; tests leave it as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = _build(request.param)
        for key, tensor in backbone.state_dict().items():
            if key.endswith(("bias", "layer_scale")):
                tensor.add_(torch.rand(tensor.shape) * 0.1)
        # Give batch norms statistics of their own: with fresh ones features vanish.
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.training = True
        backbone(torch.rand(16, 3, 32, 32))
        return backbone.train()


@pytest.fixture
def images() -> torch.Tensor:
    """Eight images of noise, each with a contrast of its own."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randint(0, 256, (8, 3, 32, 32), generator=generator)
    return (noise / torch.arange(1, 9).view(8, 1, 1, 1)).to(torch.uint8)
