"""What one input costs."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rtl_continual.backbones._backbone import Backbone
from rtl_continual.backbones._recorded import RecordedBackbone

__all__ = ["backbone_flops", "statistics_flops"]


def backbone_flops(backbone: Backbone, input_size: int | None = None) -> dict[str, int]:
    """Floating-point operations that one image costs in trunk and body.

    Convolutions, linear layers and attention are counted, two operations for each multiply-add;
    norms, activations and the router's statistics are not.

    Args:
        backbone: dense, as it is.
        input_size: height and width in pixels; ``None`` takes the backbone's own, or 224 if it
            takes any.

    Returns:
        ``trunk``, ``body`` and ``total``.

    Example:
        >>> from rtl_continual.backbones import build_backbone
        >>> backbone_flops(build_backbone("glyphnet", weights="random:0"), 32)["trunk"]
        6930432
    """
    backbone = _original(backbone)
    spec = backbone.input_spec
    height, width = (input_size, input_size) if input_size else (spec.size or (224, 224))
    images = torch.zeros(1, spec.channels, height, width, device=backbone.mean.device)
    backbone.check_images(images)
    fused = torch.backends.mha.get_fastpath_enabled()
    # The counter does not know the fused layer, nor the fused attention of processors.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        trunk, activation = _count(backbone.trunk, images)
        body, _ = _count(backbone.body, activation)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return {"trunk": trunk, "body": body, "total": trunk + body}


def statistics_flops(backbone: Backbone, input_size: int | None = None) -> int:
    """Floating-point operations of one image's router features, the trunk itself not counted.

    Four operations for each value of a tapped activation (a sum for the mean; a difference, a
    square and a sum for the deviation) and three for each channel.

    Args:
        backbone: whose taps to count.
        input_size: as for :func:`backbone_flops`.

    Example:
        >>> from rtl_continual.backbones import build_backbone
        >>> statistics_flops(build_backbone("glyphnet", weights="random:0"), 32)
        24648
    """
    backbone = _original(backbone)
    spec = backbone.input_spec
    height, width = (input_size, input_size) if input_size else (spec.size or (224, 224))
    x = torch.zeros(1, spec.channels, height, width, device=backbone.mean.device)
    stages = [*backbone.trunk.named_children()] if backbone.taps else [("", backbone.trunk)]
    total = 0
    with torch.no_grad():
        for stage, module in stages:
            x = module(x)
            if x.ndim > 2 and (backbone.taps is None or stage in backbone.taps):
                channels = x.shape[1] if x.ndim == 4 else x.shape[2]
                total += 4 * x.numel() + 3 * channels
    return total


def _original(backbone: Backbone) -> Backbone:
    """Records cost what the trunk costs that made them."""
    return backbone.original if isinstance(backbone, RecordedBackbone) else backbone


def _count(module: nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    from torch.utils.flop_counter import FlopCounterMode  # It loads Triton, where there is one.

    unfused = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), unfused, FlopCounterMode(display=False) as counter:
        out = module(x)
    return counter.get_total_flops(), out
