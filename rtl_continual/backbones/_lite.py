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
from rtl_continual.backbones._depthwise import DepthwiseConv2d

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


class _SamePad(nn.ZeroPad2d):
    """Zeros as TensorFlow's ``SAME`` adds them: of an odd number the last goes right and below."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__(0)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = (
            max((-(-length // self.stride) - 1) * self.stride + self.kernel - length, 0)
            for length in x.shape[2:]
        )
        top, left = height // 2, width // 2
        return F.pad(x, (left, width - left, top, height - top))


def _same(kernel: int, stride: int) -> tuple[nn.Module, int]:
    """What pads the input, and what the convolution adds itself, on every side."""
    if stride == 1:
        return nn.Identity(), kernel // 2  # no copy of the map for nothing
    return _SamePad(kernel, stride), 0


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
            self._expand_conv = nn.Conv2d(width_in, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
            self._act0 = nn.ReLU6()
        self._pad, padding = _same(kernel, stride)
        self._depthwise_conv = DepthwiseConv2d(hidden, kernel, stride, padding)
        self._bn1 = _norm(hidden)
        self._act1 = nn.ReLU6()
        self._project_conv = nn.Conv2d(hidden, width_out, 1, bias=False)
        self._bn2 = _norm(width_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        if self._expand_conv is not None:
            out = self._act0(self._bn0(self._expand_conv(out)))
        out = self._act1(self._bn1(self._depthwise_conv(self._pad(out))))
        out = self._bn2(self._project_conv(out))
        return out + x if self.residual else out


class _Lite(nn.Module):
    """The whole network without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._pad, padding = _same(3, 2)
        self._conv_stem = nn.Conv2d(3, _STEM, 3, 2, padding, bias=False)
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
        self._conv_head = nn.Conv2d(width, _FEATURES, 1, bias=False)
        self._bn1 = _norm(_FEATURES)

    def take_apart(self) -> OrderedDict[str, nn.Module]:
        stages: OrderedDict[str, nn.Module] = OrderedDict(
            stem=nn.Sequential(
                OrderedDict(pad=self._pad, conv=self._conv_stem, bn=self._bn0, act=nn.ReLU6())
            )
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
