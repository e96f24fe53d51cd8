from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from rtl_continual.backbones import (
    Backbone,
    InputSpec,
    backbone_flops,
    build_backbone,
    statistics_flops,
)


def test_two_operations_for_each_multiply_and_add() -> None:
    trunk, body = nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 5))
    backbone = Backbone("toy", trunk, body, feature_dim=5, input_spec=InputSpec(size=(8, 8)))
    expected = {"trunk": 2 * 64 * 4 * 27, "body": 2 * 256 * 5}
    assert backbone_flops(backbone) == {**expected, "total": sum(expected.values())}


def test_the_image_size_counts() -> None:
    backbone = build_backbone("mobilenet_v2", weights="random:0")
    small, large = (backbone_flops(backbone, size)["trunk"] for size in (32, 64))
    assert large == 4 * small


def test_known_networks() -> None:
    # Multiply-adds that torchvision publishes for 224 pixels, less the classifier's.
    published = {"resnet18": 1.814e9 - 512e3, "vit_b_32": 4.409e9 - 768e3}
    for name, multiply_adds in published.items():
        with torch.device("meta"):
            total = backbone_flops(build_backbone(name, weights="random:0"))["total"]
        assert abs(total / (2 * multiply_adds) - 1) < 1e-3


def test_statistics_are_counted_at_the_taps() -> None:
    stages = OrderedDict(one=nn.Conv2d(3, 4, 3, padding=1), two=nn.Conv2d(4, 6, 2, stride=2))
    body = nn.Sequential(nn.Flatten(), nn.Linear(6 * 16, 5))

    def toy(taps: list[str] | None) -> Backbone:
        spec = InputSpec(size=(8, 8))
        return Backbone(
            "toy", nn.Sequential(stages), body, feature_dim=5, input_spec=spec, taps=taps
        )

    one, two = 4 * 4 * 64 + 3 * 4, 4 * 6 * 16 + 3 * 6
    assert statistics_flops(toy(["one"])) == one
    assert statistics_flops(toy(None)) == statistics_flops(toy(["two"])) == two
    assert statistics_flops(toy(["one", "two"])) == one + two
    assert statistics_flops(toy(["one"]), 16) == 4 * 4 * 256 + 3 * 4


def test_attention_counts_on_a_processor_as_it_does_on_paper(
    tiny: Callable[[str], tuple[nn.Module, Callable[..., OrderedDict[str, nn.Module]]]],
) -> None:
    def count() -> dict[str, int]:
        network, take_apart = tiny("tiny_vit")
        body = nn.Sequential(take_apart(network))
        spec = InputSpec(size=(32, 32))
        backbone = Backbone("tiny", nn.Identity(), body, feature_dim=32, input_spec=spec)
        return backbone_flops(backbone)

    # Patches, then per block four projections, two attention products, two linear layers.
    block = 17 * 32 * (4 * 32 + 2 * 64) + 2 * 17 * 17 * 32
    on_paper = 2 * (16 * 32 * 3 * 64 + 4 * block)
    assert count()["total"] == on_paper
    with torch.device("meta"):
        assert count()["total"] == on_paper
    assert torch.backends.mha.get_fastpath_enabled()
