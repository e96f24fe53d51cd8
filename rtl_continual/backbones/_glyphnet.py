"""GlyphNet: the small residual network whose weights ship with the package."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from rtl_continual.backbones._architecture import Architecture, Network
from rtl_continual.backbones._backbone import InputSpec

__all__ = ["GLYPHNET", "glyphnet_stages"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al., 2016)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and width_in == width_out
            else nn.Sequential(
                OrderedDict(
                    # The stride is taken apart from the convolution: oneDNN 3 writes past its
                    # buffers in the backward pass of strided 1x1 kernels on fewer than 8 channels.
                    subsample=nn.AvgPool2d(1, stride),
                    conv=nn.Conv2d(width_in, width_out, 1, bias=False),
                    bn=nn.BatchNorm2d(width_out),
                )
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class GlobalAveragePool(nn.Module):
    """``[batch, channels, height, width]`` to ``[batch, channels]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


def glyphnet_stages(width: int = 24) -> OrderedDict[str, nn.Module]:
    """The stages of GlyphNet, in order: ``stem, block1, block2, block3, pool``.

    Input is ``[batch, 3, 32, 32]``, output ``[batch, 4 * width]``; 173,000 weights at width 24.
    Every block halves the resolution, so that one image costs 7 million multiply-adds and a whole
    stream can be learned on a laptop's processor.
    """
    stem = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, width, 3, 1, 1, bias=False),
            bn=nn.BatchNorm2d(width),
            relu=nn.ReLU(),
        )
    )
    return OrderedDict(
        stem=stem,
        block1=ResidualBlock(width, width, 2),
        block2=ResidualBlock(width, 2 * width, 2),
        block3=ResidualBlock(2 * width, 4 * width, 2),
        pool=GlobalAveragePool(),
    )


def _build(size: int | None, width: int) -> Network:
    network = nn.Sequential(glyphnet_stages(width))
    return Network(network, lambda: OrderedDict(network.named_children()), 4 * width)


GLYPHNET = Architecture(
    name="glyphnet",
    default_split="block1",
    head=None,
    input_spec=InputSpec(size=(32, 32)),
    build=_build,
    has_width=True,
)
