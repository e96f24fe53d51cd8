"""torchvision's networks, taken apart into stages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rtl_continual.backbones._architecture import Architecture, Network
from rtl_continual.backbones._backbone import InputSpec
from rtl_continual.backbones._weights import read_weights
from rtl_continual.errors import RTLError, unknown_name

__all__ = ["TORCHVISION", "torchvision_weights"]

IMAGENET = InputSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
VIT_SIZE = 224

Stages = OrderedDict[str, nn.Module]


class PatchEmbedding(nn.Module):
    """Patches, class token and positions of a vision transformer.

    ``[batch, 3, height, width]`` to ``[batch, 1 + patches, features]``; the class token is first.
    """

    def __init__(
        self, conv_proj: nn.Module, class_token: nn.Parameter, pos_embedding: nn.Parameter
    ) -> None:
        super().__init__()
        self.conv_proj = conv_proj
        self.class_token = class_token
        self.pos_embedding = pos_embedding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        return tokens + self.pos_embedding


class ClassToken(nn.Module):
    """The normalised class token: ``[batch, tokens, features]`` to ``[batch, features]``."""

    def __init__(self, ln: nn.Module) -> None:
        super().__init__()
        self.ln = ln

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.ln(x[:, 0])
        return out


def _resnet_stages(net: Any) -> Stages:
    stages: Stages = OrderedDict(
        stem=nn.Sequential(
            OrderedDict(conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool)
        )
    )
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        for i, block in enumerate(getattr(net, layer)):
            stages[f"{layer}_{i}"] = block
    stages["pool"] = nn.Sequential(net.avgpool, nn.Flatten(1))
    return stages


def _mobilenet_stages(net: Any) -> Stages:
    *blocks, last = net.features
    stages: Stages = OrderedDict(stem=blocks[0])
    for i, block in enumerate(blocks[1:], start=1):
        stages[f"block{i}"] = block
    stages["last"] = last
    stages["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    # The third version widens its features between pooling and the classifier.
    if isinstance(net.classifier[0], nn.Linear):
        stages["projection"] = net.classifier[:2]
    return stages


def _efficientnet_stages(net: Any) -> Stages:
    stem, *groups, last = net.features
    stages: Stages = OrderedDict(stem=stem)
    for g, group in enumerate(groups, start=1):
        for i, block in enumerate(group):
            stages[f"stage{g}_{i}"] = block
    stages["last"] = last
    stages["pool"] = nn.Sequential(net.avgpool, nn.Flatten(1))
    return stages


def _convnext_stages(net: Any) -> Stages:
    stem, *groups = net.features
    stages: Stages = OrderedDict(stem=stem)
    for g, group in enumerate(groups):
        number = g // 2 + 1
        if g % 2:
            stages[f"down{number}"] = group
        else:
            stages.update((f"stage{number}_{i}", block) for i, block in enumerate(group))
    norm, flatten, _ = net.classifier
    stages["pool"] = nn.Sequential(OrderedDict(avgpool=net.avgpool, norm=norm, flatten=flatten))
    return stages


def _vit_stages(net: Any) -> Stages:
    embed = PatchEmbedding(net.conv_proj, net.class_token, net.encoder.pos_embedding)
    stages: Stages = OrderedDict(embed=embed)
    for i, block in enumerate(net.encoder.layers, start=1):
        stages[f"block{i}"] = block
    stages["pool"] = ClassToken(net.encoder.ln)
    return stages


def _build(
    name: str, take_apart: Callable[[Any], Stages], head: str, size: int | None, width: int
) -> Network:
    """Make torchvision's network without its classifier, the last linear layer."""
    import torchvision

    options: dict[str, Any] = {}
    # Dropping blocks at random would make what a ticket learns depend on the global random state.
    if take_apart in (_efficientnet_stages, _convnext_stages):
        options["stochastic_depth_prob"] = 0.0
    if take_apart is _vit_stages:
        options["image_size"] = size or VIT_SIZE
        patch = int(name.rpartition("_")[2])
        if options["image_size"] % patch:
            raise RTLError(
                f"backbone '{name}': input_size must be a multiple of its patches of {patch} "
                f"pixels, got {size}"
            )
    network = torchvision.models.get_model(name, weights=None, **options)
    classifier: Any = network.get_submodule(head.removesuffix("."))
    network.set_submodule(head.removesuffix("."), nn.Identity())
    return Network(network, partial(take_apart, network), classifier.in_features)


# Per name: the default split, the end of a group of blocks or a block within one, with 10 to 25 %
# of the FLOPs at 224 pixels in the trunk.
_FAMILIES: tuple[tuple[Callable[[Any], Stages], str, dict[str, str]], ...] = (
    (
        _resnet_stages,
        "fc.",
        {
            "resnet18": "layer1_0",
            "resnet34": "layer1",
            "resnet50": "layer1",
            "resnet101": "layer1",
            "resnet152": "layer2",
            "resnext50_32x4d": "layer1",
            "resnext101_32x8d": "layer2",
            "resnext101_64x4d": "layer2",
            "wide_resnet50_2": "layer1",
            "wide_resnet101_2": "layer2",
        },
    ),
    (_mobilenet_stages, "classifier.1.", {"mobilenet_v2": "block2"}),
    (
        _mobilenet_stages,
        "classifier.3.",
        {"mobilenet_v3_small": "block1", "mobilenet_v3_large": "block3"},
    ),
    (
        _efficientnet_stages,
        "classifier.1.",
        {
            "efficientnet_b0": "stage2",
            "efficientnet_b1": "stage2",
            "efficientnet_b2": "stage2",
            "efficientnet_b3": "stage2",
            "efficientnet_b4": "stage2",
            "efficientnet_b5": "stage2",
            "efficientnet_b6": "stage2",
            "efficientnet_b7": "stage2",
            "efficientnet_v2_s": "stage2_1",
            "efficientnet_v2_m": "stage2_2",
            "efficientnet_v2_l": "stage2_3",
        },
    ),
    (
        _convnext_stages,
        "classifier.2.",
        {
            "convnext_tiny": "stage1",
            "convnext_small": "stage2",
            "convnext_base": "stage2",
            "convnext_large": "stage2",
        },
    ),
    (
        _vit_stages,
        "heads.head.",
        {
            "vit_b_16": "block2",
            "vit_b_32": "block2",
            "vit_l_16": "block4",
            "vit_l_32": "block4",
            "vit_h_14": "block5",
        },
    ),
)


def _architectures() -> dict[str, Architecture]:
    found = {}
    for take_apart, head, names in _FAMILIES:
        vit = take_apart is _vit_stages
        for name, split in names.items():
            found[name] = Architecture(
                name=name,
                default_split=split,
                head=head,
                input_spec=replace(IMAGENET, size=(VIT_SIZE, VIT_SIZE)) if vit else IMAGENET,
                build=partial(_build, name, take_apart, head),
                fixed_size=vit,
            )
    return found


TORCHVISION = _architectures()
"""The architectures of torchvision, by name."""


def torchvision_weights(name: str, weights: str) -> tuple[dict[str, torch.Tensor], InputSpec]:
    """Weights that torchvision publishes, downloaded unless they are in torch's cache.

    Args:
        name: the architecture.
        weights: ``torchvision:IMAGENET1K_V1`` or ``torchvision:ResNet18_Weights.IMAGENET1K_V1``.

    Returns:
        A state dict, and what images it was trained on.

    Raises:
        RTLError: if torchvision has no such weights, or they cannot be fetched.
    """
    if name not in TORCHVISION:
        raise RTLError(f"weights '{weights}': backbone '{name}' is not one of torchvision's")
    import torchvision

    published = torchvision.models.get_model_weights(name)
    wanted = weights.removeprefix("torchvision:").removeprefix(f"{published.__name__}.")
    if wanted not in published.__members__:
        raise RTLError(
            unknown_name(f"torchvision weights of '{name}'", wanted, published.__members__)
        )
    entry: Any = published[wanted]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    if not file.is_file():
        _download(entry.url, file, weights)
    preset = entry.transforms()
    size = preset.crop_size[0]
    spec = InputSpec(size=(size, size), mean=tuple(preset.mean), std=tuple(preset.std))
    return read_weights(file), spec


def _download(url: str, file: Path, weights: str) -> None:
    # torchvision's file names end in the first digits of their content's hash.
    digits = file.stem.rpartition("-")[2]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=digits, progress=False)
    except (OSError, RuntimeError) as error:
        raise RTLError(
            f"weights '{weights}' could not be downloaded from {url}: {error}. "
            f"Fetch that file by other means and put it at '{file}', or give its path as weights"
        ) from error
