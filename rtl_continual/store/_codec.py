"""Tickets, routers and backbones as safetensors bytes, and back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from rtl_continual.errors import BankError
from rtl_continual.store._manifest import FORMAT_VERSION
from rtl_continual.store._metadata import METADATA_KEY, read_metadata
from rtl_continual.store._sealed import canonical_json
from rtl_continual.tickets import Mask, MaskLayout, Ticket, TicketInfo

__all__ = [
    "decode_mask",
    "decode_tensors",
    "decode_ticket",
    "encode_mask",
    "encode_tensors",
    "encode_ticket",
]

_STRATEGIES = (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY)


def encode_tensors(
    kind: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
) -> bytes:
    """A safetensors file with one metadata key that holds canonical JSON.

    More than one key would be written in an order that changes from run to run.

    Args:
        kind: ``ticket``, ``router`` or ``backbone``.
        tensors: the content.
        facts: everything else, plain JSON values.
    """
    values = {"format": f"rtl-continual-{kind}", "format_version": FORMAT_VERSION, **facts}
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    return safetensors.torch.save(
        plain, metadata={METADATA_KEY: canonical_json(values).decode("ascii")}
    )


def decode_tensors(
    kind: str, data: bytes, source: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The inverse of :func:`encode_tensors`: tensors and facts.

    Raises:
        BankError: if the bytes are not such a file.
    """
    facts = read_metadata(kind, data, source)
    try:
        return safetensors.torch.load(data), facts
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BankError(f"{source} is damaged: {error}") from error


def encode_mask(mask: Mask) -> tuple[bytes, list[dict[str, Any]]]:
    """All layers' bits one after the other, each deflated if that makes it smaller.

    A layer's packed bits have almost no repeats to point back to, only an uneven spread of byte
    values: deflate restricted to Huffman codes stays within 2 % of the entropy at 90 % sparsity
    where the usual search for repeats costs 20 %. Very sparse layers are mostly runs of zero
    bytes, which run lengths or the usual search catch. The smallest of the three is kept; any
    inflater reads all of them.

    Returns:
        The bytes, and one entry per layer for the metadata.
    """
    parts, entries = [], []
    for name, (start, stop) in mask.layout.byte_ranges.items():
        packed = mask.bits[start:stop].tobytes()
        best = min((_deflate(packed, strategy) for strategy in _STRATEGIES), key=len)
        code = "deflate" if len(best) < len(packed) else "bits"
        parts.append(best if code == "deflate" else packed)
        entries.append(
            {
                "name": name,
                "shape": list(mask.layout.shapes[name]),
                "kept": mask.counts[name],
                "code": code,
                "bytes": len(parts[-1]),
            }
        )
    return b"".join(parts), entries


def _deflate(data: bytes, strategy: int) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15, 9, strategy)
    return packer.compress(data) + packer.flush()


def decode_mask(data: bytes, entries: Any, layout: MaskLayout | None, source: str) -> Mask:
    """The inverse of :func:`encode_mask`.

    Args:
        data: all layers' bytes.
        entries: the metadata's entries.
        layout: what the layers must be; ``None`` takes the entries' word for it.
        source: for messages.

    Raises:
        BankError: if anything does not fit.
    """
    try:
        shapes = {str(e["name"]): tuple(int(n) for n in e["shape"]) for e in entries}
        sized = [(str(e["code"]), int(e["bytes"]), int(e["kept"])) for e in entries]
    except (TypeError, KeyError, ValueError) as error:
        raise BankError(f"{source} is damaged: its mask has no valid index") from error
    sound = shapes and all(min(shape, default=0) >= 1 for shape in shapes.values())
    if not sound or len(shapes) != len(sized):
        raise BankError(f"{source} is damaged: its mask has no valid index")
    if layout is not None and shapes != dict(layout.shapes):
        raise BankError(f"{source} masks another body than this backbone's")
    layout = layout or MaskLayout(shapes)
    if sum(length for _, length, _ in sized) != len(data):
        raise BankError(f"{source} is damaged: its mask is not as long as its index says")
    # No layer can inflate to more than deflate's best ratio, so neither can the whole mask.
    if layout.num_bytes > 1100 * len(data):
        raise BankError(f"{source} is damaged: its mask claims {layout.num_bytes} bytes")
    bits = np.empty(layout.num_bytes, dtype=np.uint8)
    offset = 0
    for (name, (start, stop)), (code, length, _) in zip(
        layout.byte_ranges.items(), sized, strict=True
    ):
        packed = _inflate(data[offset : offset + length], code, stop - start)
        if packed is None:
            raise BankError(f"{source} is damaged: the mask of '{name}' cannot be unpacked")
        bits[start:stop] = np.frombuffer(packed, dtype=np.uint8)
        padding = 8 * (stop - start) - layout.sizes[name]
        if padding and bits[stop - 1] >> (8 - padding):
            raise BankError(f"{source} is damaged: the mask of '{name}' has bits past its end")
        offset += length
    mask = Mask(layout, bits)
    if list(mask.counts.values()) != [kept for _, _, kept in sized]:
        raise BankError(f"{source} is damaged: its mask keeps other counts than its index says")
    return mask


def _inflate(data: bytes, code: str, size: int) -> bytes | None:
    if code == "bits":
        return data if len(data) == size else None
    if code != "deflate":
        return None
    unpacker = zlib.decompressobj(-15)
    try:
        # One byte more than wanted tells a bomb without unpacking it.
        packed = unpacker.decompress(data, size + 1)
    except zlib.error:
        return None
    whole = len(packed) == size and unpacker.eof and not unpacker.unused_data
    return packed if whole else None


def encode_ticket(ticket: Ticket, identity: str) -> bytes:
    """A ticket's blob. The same ticket gives the same bytes, whatever its id."""
    bits, entries = encode_mask(ticket.mask)
    tensors = ticket.tensors() | {"mask": torch.frombuffer(bytearray(bits), dtype=torch.uint8)}
    facts = {"backbone": identity, "mask": entries, "info": ticket.info.to_json()}
    return encode_tensors("ticket", tensors, facts)


def decode_ticket(
    data: bytes,
    ticket_id: int,
    source: str,
    *,
    layout: MaskLayout | None = None,
    identity: str | None = None,
) -> Ticket:
    """The inverse of :func:`encode_ticket`.

    Args:
        data: the blob.
        ticket_id: the id it has in its bank.
        source: for messages.
        layout: of the body that it must mask, if known.
        identity: of the backbone that it must belong to, if known.

    Raises:
        BankError: if the blob is damaged or belongs to another backbone.
    """
    tensors, facts = decode_tensors("ticket", data, source)
    if identity is not None and facts.get("backbone") != identity:
        raise BankError(f"{source} was trained over another backbone ({facts.get('backbone')})")
    bits = tensors.pop("mask", None)
    if bits is None or bits.dtype != torch.uint8 or bits.ndim != 1:
        raise BankError(f"{source} is damaged: it holds no mask")
    mask = decode_mask(bits.numpy().tobytes(), facts.get("mask"), layout, source)
    groups: dict[str, dict[str, torch.Tensor]] = {"norm": {}, "head": {}, "statistics": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        if group not in groups or not rest:
            raise BankError(f"{source} is damaged: it holds a tensor '{name}' of no known group")
        groups[group][rest] = tensor
    try:
        info = TicketInfo.from_json(facts["info"])
    except (TypeError, KeyError) as error:
        raise BankError(f"{source} is damaged: it lacks the ticket's information") from error
    return Ticket(id=ticket_id, mask=mask, info=info, **groups)
