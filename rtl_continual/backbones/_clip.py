"""The image encoder of CLIP ViT-B/16 (Radford et al., 2021), its parameters named as published.

It differs from torchvision's vision transformer: a norm before the first block, no bias in the
patch convolution, GELU by a sigmoid, and a projection into the space that images share with texts.
OpenCLIP's state dicts, and those of OpenAI's models saved as state dicts, fit as they are; what
they hold beside the image encoder is left out.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from rtl_continual.backbones._architecture import Architecture, Network
from rtl_continual.backbones._backbone import InputSpec

__all__ = ["CLIP_VIT_B_16"]

_WIDTH, _HEADS, _LAYERS, _PATCH, _FEATURES, _SIZE = 768, 12, 12, 16, 512, 224


class _SigmoidGELU(nn.Module):
    """``x * sigmoid(1.702 x)``, which CLIP was trained with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    """A transformer block, norms first."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(_WIDTH)
        self.attn = nn.MultiheadAttention(_WIDTH, _HEADS, batch_first=True)
        self.ln_2 = nn.LayerNorm(_WIDTH)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(_WIDTH, 4 * _WIDTH),
                gelu=_SigmoidGELU(),
                c_proj=nn.Linear(4 * _WIDTH, _WIDTH),
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        out: torch.Tensor = x + self.mlp(self.ln_2(x))
        return out


class _Embedding(nn.Module):
    """Patches, class token, positions and the first norm."""

    def __init__(self, owner: _Encoder) -> None:
        super().__init__()
        self.conv1, self.ln_pre = owner.conv1, owner.ln_pre
        self.class_embedding = owner.class_embedding
        self.positional_embedding = owner.positional_embedding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(x), 1, -1)
        out: torch.Tensor = self.ln_pre(
            torch.cat([token, patches], dim=1) + self.positional_embedding
        )
        return out


class _Projection(nn.Module):
    """The class token's norm and its projection: ``[batch, tokens, width]`` to ``[batch, 512]``."""

    def __init__(self, owner: _Encoder) -> None:
        super().__init__()
        self.ln_post, self.proj = owner.ln_post, owner.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.ln_post(x[:, 0]) @ self.proj
        return out


class _Encoder(nn.Module):
    """The whole image encoder."""

    def __init__(self, size: int) -> None:
        super().__init__()
        scale = _WIDTH**-0.5
        self.conv1 = nn.Conv2d(3, _WIDTH, _PATCH, _PATCH, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(_WIDTH))
        tokens = (size // _PATCH) ** 2 + 1
        self.positional_embedding = nn.Parameter(scale * torch.randn(tokens, _WIDTH))
        self.ln_pre = nn.LayerNorm(_WIDTH)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(_Block() for _ in range(_LAYERS))
        self.ln_post = nn.LayerNorm(_WIDTH)
        self.proj = nn.Parameter(scale * torch.randn(_WIDTH, _FEATURES))

    def take_apart(self) -> OrderedDict[str, nn.Module]:
        stages: OrderedDict[str, nn.Module] = OrderedDict(embed=_Embedding(self))
        for i, block in enumerate(self.transformer.resblocks, start=1):  # type: ignore[arg-type]
            stages[f"block{i}"] = block
        stages["projection"] = _Projection(self)
        return stages


def _build(size: int | None, width: int) -> Network:
    network = _Encoder(size or _SIZE)
    return Network(network, network.take_apart, _FEATURES)


CLIP_VIT_B_16 = Architecture(
    name="clip_vit_b_16",
    default_split="block2",
    head=None,
    input_spec=InputSpec(
        size=(_SIZE, _SIZE),
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    build=_build,
    fixed_size=True,
)
