"""Self-attention with any number of heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["HeadAttention", "attend"]


class HeadAttention(nn.Module):
    """Self-attention whose heads need not make up the width of its input.

    ``nn.MultiheadAttention`` has as many heads of one size as fill its input's width. This one
    starts with its parameters, which may then be cut to fewer heads. It is called in the same way,
    with one tensor for queries, keys and values and without masks.

    Args:
        attention: is not copied.
        heads: how many are to be left.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> x, full = torch.rand(2, 5, 8), nn.MultiheadAttention(8, 4, batch_first=True)
        >>> torch.allclose(HeadAttention(full, 4)(x, x, x)[0], full(x, x, x)[0], atol=1e-6)
        True
    """

    def __init__(self, attention: nn.MultiheadAttention, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.batch_first = attention.batch_first
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: None = None,
        need_weights: bool = False,
        attn_mask: None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, None]:
        """Outputs shaped as ``query``, and no attention weights.

        Args:
            query: ``[batch, tokens, features]``, or tokens first if the module has
                ``batch_first=False``, or without a batch.
            key: the same tensor.
            value: the same tensor.
            key_padding_mask: none.
            need_weights: is ignored, and so are ``average_attn_weights``.
            attn_mask: none.
            average_attn_weights: is ignored.
            is_causal: no.
        """
        turned = not self.batch_first and query.ndim == 3
        x = query.transpose(0, 1) if turned else query
        out = attend(self, x, self.num_heads)
        return (out.transpose(0, 1) if turned else out), None


def attend(
    attention: HeadAttention | nn.MultiheadAttention,
    x: torch.Tensor,
    heads: int,
    linear: Callable[..., torch.Tensor] = F.linear,
) -> torch.Tensor:
    """Self-attention of ``x``, ``[..., tokens, features]``, without masks.

    Args:
        attention: its parameters are used.
        x: queries, keys and values.
        heads: how many.
        linear: ``x``, weight and bias to what ``F.linear`` gives.
    """
    # [batch, tokens, 3, heads, features] to three of [batch, heads, tokens, features].
    parts = linear(x, attention.in_proj_weight, attention.in_proj_bias)
    parts = parts.unflatten(-1, (3, heads, -1)).transpose(-4, -2)
    joined = F.scaled_dot_product_attention(*parts.unbind(-3)).transpose(-3, -2).flatten(-2)
    return linear(joined, attention.out_proj.weight, attention.out_proj.bias)
