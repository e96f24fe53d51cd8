"""Router features as every part of discovery takes them."""

from __future__ import annotations

import torch

from rtl_continual.errors import DataError

__all__ = ["as_features"]


def as_features(features: torch.Tensor, *, width: int | None = None) -> torch.Tensor:
    """Check router features and bring them to the processor in double precision.

    Args:
        features: ``[samples, features]``.
        width: how many features there must be.

    Raises:
        DataError: without samples, with another shape, or if a sample is not finite.
    """
    if features.ndim != 2:
        raise DataError(f"router features must be [samples, features], got {list(features.shape)}")
    if len(features) == 0:
        raise DataError("there are no samples to look at: the batch is empty")
    if width is not None and features.shape[1] != width:
        raise DataError(
            f"got {features.shape[1]} router features per sample, the tickets have {width}: "
            "use the bank's own backbone and taps"
        )
    bad = torch.nonzero(~torch.isfinite(features).all(dim=1)).flatten().tolist()
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DataError(
            f"router features of sample {bad[0]}{more} are not finite; "
            "look for NaN or infinite pixels in that image"
        )
    return features.detach().cpu().double()
