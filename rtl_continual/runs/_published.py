"""Published results beside a run's own, and in what the run differs from theirs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

__all__ = ["published_beside"]


def published_beside(stream: BaseModel, backbone: dict[str, Any]) -> dict[str, Any] | None:
    """Rows of papers on the same data set, or ``None`` where none are known.

    Args:
        stream: the stream's options.
        backbone: what ``results.json`` says of the backbone.

    Returns:
        ``rows`` (method, backbone, accuracy in per cent over all test images, order of domains,
        mean over domains where known), ``order``: that of this run's domains, and ``differences``:
        in what this run is not comparable.
    """
    from rtl_continual.streams import DomainNetConfig, published_results
    from rtl_continual.streams.domainnet import order_name, protocol_differences

    if not isinstance(stream, DomainNetConfig):
        return None
    rows = published_results()
    differences = protocol_differences(stream)
    own = f"{backbone['name']} with weights {backbone['weights']}"
    kinds = " or ".join(f"'{row}'" for row in dict.fromkeys(row.backbone for row in rows))
    if backbone["name"] == "clip_vit_b_16":
        differences.insert(0, f"backbone {own}: compare with rows of 'CLIP ViT-B/16' alone")
    elif not backbone["name"].startswith("vit_b_16"):
        differences.insert(0, f"backbone {own}: the published rows have {kinds}")
    elif backbone["weights"].startswith(("torchvision:", "random:")):
        differences.insert(
            0, f"weights {backbone['weights']}: the published rows begin with {kinds}"
        )
    else:
        # A file's name says nothing for sure.
        differences.insert(
            0, f"weights {backbone['weights']}: compare with rows of the same pretraining alone"
        )
    order = order_name(stream)
    if order is not None:
        differences.append(f"order {order}: rows of another order, or of none stated, saw another")
    return {
        "rows": [asdict(row) for row in rows],
        "order": order or ", ".join(stream.domain_order),
        "differences": differences,
    }
