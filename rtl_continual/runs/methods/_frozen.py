"""Final features of a frozen backbone: run once for each set, shared by every method of a run."""

from __future__ import annotations

import time
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from rtl_continual.backbones import Backbone
from rtl_continual.streams import ImageSet, read_ahead
from rtl_continual.tickets import run_trunk

__all__ = ["FrozenFeatures", "frozen_features"]


class FrozenFeatures(NamedTuple):
    """What a frozen backbone says of a set.

    Args:
        final: ``[n, feature_dim]``.
        statistics: router features ``[n, router_feature_dim]``.
        borrowed_seconds: what it took, if it was known from before; else 0. A method adds them to
            its own time, so that times compare as if each had run the backbone by itself.
    """

    final: torch.Tensor
    statistics: torch.Tensor
    borrowed_seconds: float


_KNOWN: WeakKeyDictionary[ImageSet, dict[str, Any]] = WeakKeyDictionary()


@torch.no_grad()
def frozen_features(
    backbone: Backbone, images: ImageSet, *, cache_bytes: int = 2**30
) -> FrozenFeatures:
    """Final features and router features of a whole set.

    Args:
        backbone: frozen.
        images: the set; features are remembered for as long as it lives.
        cache_bytes: a set with more features than this is not remembered.
    """
    known = _KNOWN.setdefault(images, {})
    if backbone.identity in known:
        final, statistics, seconds = known[backbone.identity]
        device = backbone.mean.device
        return FrozenFeatures(final.to(device), statistics.to(device), seconds)
    start = time.perf_counter()
    parts, read = [], []
    rows = [np.arange(first, min(first + 256, len(images))) for first in range(0, len(images), 256)]
    for batch, _ in read_ahead(images, rows):
        out = run_trunk(backbone, batch.to(backbone.mean.device))
        parts.append(backbone.body(out.activation))
        read.append(out.router_features)
    final, statistics = torch.cat(parts), torch.cat(read)
    if final.numel() * final.element_size() <= cache_bytes:
        spent = time.perf_counter() - start
        known[backbone.identity] = (final.cpu(), statistics.cpu(), spent)
    return FrozenFeatures(final, statistics, 0.0)
