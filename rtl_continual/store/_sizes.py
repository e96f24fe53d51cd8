"""How large a bank is, against the entropy of its masks and a dense copy of the model."""

from __future__ import annotations

import math
from typing import Any

from rtl_continual.errors import BankError
from rtl_continual.store._files import BankFiles
from rtl_continual.store._manifest import Manifest
from rtl_continual.store._metadata import read_metadata

__all__ = ["entropy_bytes", "sizes"]


def entropy_bytes(kept: int, total: int) -> float:
    """The fewest bytes that can on average tell which ``kept`` of ``total`` weights are kept.

    ``total * H(kept / total) / 8``, with the binary entropy H: the bound for a mask of which no
    more is known than its density.

    Example:
        >>> round(entropy_bytes(100, 1000), 1)
        58.6
    """
    p = kept / total
    if p in (0, 1):
        return 0.0
    return -total * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8


def sizes(files: BankFiles, manifest: Manifest) -> dict[str, Any]:
    """See :meth:`BankStore.sizes`."""
    tickets = []
    for index, entry in enumerate(manifest.tickets):
        what = f"ticket {index} '{entry.name}'"
        layers = read_metadata("ticket", files.blob(entry.blob, entry.bytes, what), what)["mask"]
        counts = [(layer["kept"], math.prod(layer["shape"])) for layer in layers]
        mask = sum(layer["bytes"] for layer in layers)
        bound = entropy_bytes(entry.kept, manifest.backbone.maskable)
        tickets.append(
            {
                "id": index,
                "name": entry.name,
                "bytes": entry.bytes,
                "mask_bytes": mask,
                "sparsity": 1 - entry.kept / manifest.backbone.maskable,
                "entropy_bytes": bound,
                "ratio": mask / bound if bound else None,
                "layer_entropy_bytes": sum(entropy_bytes(*count) for count in counts),
            }
        )
    dense = _dense_bytes(files, manifest)
    blobs = manifest.blobs()
    return {
        "version": manifest.version,
        "tickets": tickets,
        "bytes": sum(blobs.values()),
        "ticket_bytes": sum(entry.bytes for entry in manifest.tickets),
        "router_bytes": manifest.router.bytes if manifest.router else 0,
        "backbone_bytes": manifest.backbone.bytes,
        "dense_copy_bytes": dense,
        "dense_copies_bytes": None if dense is None else dense * len(tickets),
    }


def _dense_bytes(files: BankFiles, manifest: Manifest) -> int | None:
    """Bytes of one full copy of the backbone; ``None`` where it cannot be built."""
    # This alone needs torch.
    from rtl_continual.store._load import load_backbone

    try:
        backbone = load_backbone(files, manifest)
    except BankError:
        return None
    return sum(t.numel() * t.element_size() for t in backbone.state_dict().values())
