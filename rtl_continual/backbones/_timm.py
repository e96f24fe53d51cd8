"""Vision transformers saved under timm's names, renamed to torchvision's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

__all__ = ["from_timm"]

_WHOLE = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj.": "conv_proj.",
    "norm.": "encoder.ln.",
    "head.": "heads.head.",
}
_IN_BLOCK = {
    "norm1.": "ln_1.",
    "attn.qkv.": "self_attention.in_proj_",
    "attn.proj.": "self_attention.out_proj.",
    "norm2.": "ln_2.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
}


def from_timm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict under torchvision's names; one that is not timm's comes back as it is.

    The networks are the same. Queries, keys and values lie in the same order in both.

    Example:
        >>> names = ["cls_token", "blocks.3.attn.qkv.weight", "blocks.3.mlp.fc2.bias"]
        >>> list(from_timm(dict.fromkeys(names)))[1]
        'encoder.layers.encoder_layer_3.self_attention.in_proj_weight'
    """
    if "cls_token" not in state:
        return dict(state)
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    block = re.match(r"blocks\.(\d+)\.(.*)", name)
    table, rest, prefix = _WHOLE, name, ""
    if block is not None:
        table, rest = _IN_BLOCK, block[2]
        prefix = f"encoder.layers.encoder_layer_{block[1]}."
    for old, new in table.items():
        if rest.startswith(old):
            return prefix + new + rest.removeprefix(old)
    return name
