"""EfficientNet-Lite0: EfficientNet without squeeze-and-excitation, with bounded activations.

The structure of Tan and Le (2019), "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks", as its Lite variant changes it: ReLU6 for swish, no squeeze-and-excitation, stem and last
layer of fixed width. Parameters are named as in the published PyTorch conversion, so its state dict
fits as it is.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from rtl_continual.backbones._architecture import Architecture, Network
from rtl_continual.backbones._backbone import InputSpec
from rtl_continual.backbones._depthwise import depthwise_conv

__all__ = ["EFFICIENTNET_LITE0"]

# Kernel, stride, expansion, output channels and number of blocks, by stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM, _FEATURES = 32, 1280


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's ``SAME``: the odd pixel goes right and below."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = [
            max((-(-length // step) - 1) * step + kernel - length, 0)
            for length, kernel, step in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        ]
        padding = 0
        if sides[0] == sides[1] and sides[0] % 2 == 0:
            padding = sides[0] // 2  # no copy of the map for nothing
        else:
            top, left = sides[0] // 2, sides[1] // 2
            x = F.pad(x, (left, sides[1] - left, top, sides[0] - top))
        if self.groups == self.in_channels:
            return depthwise_conv(x, self.weight, self.stride[0], padding)
        return F.conv2d(x, self.weight, None, self.stride, padding, self.dilation, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    # Momentum is torch's own, not the 0.01 these weights were trained with: a ticket makes a few
    # hundred steps, in which running statistics would hardly move.
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """An inverted residual block (Sandler et al., 2018)."""

    def __init__(
        self, width_in: int, width_out: int, *, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = expansion * width_in
        self.residual = stride == 1 and width_in == width_out
        self._expand_conv: nn.Module | None = None
        if expansion != 1:
            self._expand_conv = _SameConv(width_in, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = _SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv = _SameConv(hidden, width_out, 1, bias=False)
        self._bn2 = _norm(width_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        if self._expand_conv is not None:
            out = F.relu6(self._bn0(self._expand_conv(out)))
        out = F.relu6(self._bn1(self._depthwise_conv(out)))
        out = self._bn2(self._project_conv(out))
        return out + x if self.residual else out


class _Lite(nn.Module):
    """The whole network without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, _STEM, 3, 2, bias=False)
        self._bn0 = _norm(_STEM)
        self._blocks = nn.ModuleList()
        self.names: list[str] = []
        width = _STEM
        for number, (kernel, stride, expansion, out, count) in enumerate(_STAGES, start=1):
            for i in range(count):
                self._blocks.append(
                    _Block(
                        width,
                        out,
                        kernel=kernel,
                        stride=stride if i == 0 else 1,
                        expansion=expansion,
                    )
                )
                self.names.append(f"stage{number}_{i}")
                width = out
        self._conv_head = _SameConv(width, _FEATURES, 1, bias=False)
        self._bn1 = _norm(_FEATURES)

    def take_apart(self) -> OrderedDict[str, nn.Module]:
        stages: OrderedDict[str, nn.Module] = OrderedDict(
            stem=nn.Sequential(OrderedDict(conv=self._conv_stem, bn=self._bn0, act=nn.ReLU6()))
        )
        stages.update(zip(self.names, self._blocks, strict=True))
        stages["last"] = nn.Sequential(
            OrderedDict(conv=self._conv_head, bn=self._bn1, act=nn.ReLU6())
        )
        stages["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        return stages


def _build(size: int | None, width: int) -> Network:
    network = _Lite()
    return Network(network, network.take_apart, _FEATURES)


EFFICIENTNET_LITE0 = Architecture(
    name="efficientnet_lite0",
    default_split="stage2",
    head="_fc.",
    # The weights were trained on (pixel - 127) / 128.
    input_spec=InputSpec(mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    build=_build,
)
