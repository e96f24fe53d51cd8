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

_MOST_WEIGHTS = 2**33
"""Masks of more weights are refused: unpacked, they would take more than a gigabyte."""


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
    """All layers' codes one after the other: of several codes for a layer, the smallest.

    - ``bits``: the packed bits as they are.
    - ``deflate``: the packed bits, deflated.
    - ``gaps``: the distances between kept weights, one byte each (255 for "255 and more"),
      deflated. Distances of a random mask are as random as can be, so deflate's Huffman codes
      alone come within 1 % of the entropy from 80 to 99 % sparsity, where a search for repeats in
      the packed bits costs 20 % at 90 and 60 % at 99.

    Returns:
        The bytes, and one entry per layer for the metadata.
    """
    parts, entries = [], []
    for name, (start, stop) in mask.layout.byte_ranges.items():
        packed = mask.bits[start:stop]
        codes = {"bits": packed.tobytes(), "deflate": _deflate(packed.tobytes())}
        if mask.counts[name] < mask.layout.sizes[name] / 3:
            codes["gaps"] = _deflate(_gaps(packed))
        code = min(codes, key=lambda code: len(codes[code]))
        parts.append(codes[code])
        entries.append(
            {
                "name": name,
                "shape": list(mask.layout.shapes[name]),
                "kept": mask.counts[name],
                "code": code,
                "bytes": len(codes[code]),
            }
        )
    return b"".join(parts), entries


def _deflate(data: bytes) -> bytes:
    """The smallest of Huffman codes alone, run lengths, and the usual search for repeats."""
    packed = []
    for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY):
        packer = zlib.compressobj(6, zlib.DEFLATED, -15, 9, strategy)
        packed.append(packer.compress(data) + packer.flush())
    return min(packed, key=len)


def _gaps(packed: np.ndarray) -> bytes:
    """For each kept weight the dropped ones before it: 255s, and a last byte below 255."""
    kept = np.flatnonzero(np.unpackbits(packed, bitorder="little"))
    dropped = np.diff(kept, prepend=-1) - 1
    ends = np.cumsum(dropped // 255 + 1) - 1
    gaps = np.full(int(ends[-1]) + 1 if len(ends) else 0, 255, dtype=np.uint8)
    gaps[ends] = dropped % 255
    return gaps.tobytes()


def _from_gaps(gaps: bytes, size: int) -> np.ndarray | None:
    """The packed bits of ``size`` weights; the inverse of :func:`_gaps`."""
    values = np.frombuffer(gaps, dtype=np.uint8)
    if len(values) and values[-1] == 255:
        return None
    # Places are counted from one. Torch sums twice as fast as NumPy.
    last = values < 255
    kept: np.ndarray = torch.from_numpy(values + last).cumsum(0).numpy()
    if not last.all():
        kept = kept[last]
    if len(kept) and kept[-1] > size:
        return None
    keep = np.zeros(size + 1, dtype=np.bool_)
    keep[kept] = True
    return np.packbits(keep[1:], bitorder="little")


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
    if layout is not None and list(shapes.items()) != list(layout.shapes.items()):
        raise BankError(f"{source} masks another body than this backbone's")
    layout = layout or MaskLayout(shapes)
    if layout.total > _MOST_WEIGHTS:
        raise BankError(f"{source} masks {layout.total} weights, at most {_MOST_WEIGHTS} are read")
    if sum(length for _, length, _ in sized) != len(data):
        raise BankError(f"{source} is damaged: its mask is not as long as its index says")
    parts, offset = [], 0
    for (name, size), (code, length, kept) in zip(layout.sizes.items(), sized, strict=True):
        packed = _decode_layer(data[offset : offset + length], code, size, kept)
        if packed is None:
            raise BankError(f"{source} is damaged: the mask of '{name}' cannot be unpacked")
        parts.append(packed)
        offset += length
    try:
        mask = Mask(layout, np.concatenate(parts))
    except BankError as error:
        raise BankError(f"{source} is damaged: {error}") from error
    if list(mask.counts.values()) != [kept for _, _, kept in sized]:
        raise BankError(f"{source} is damaged: its mask keeps other counts than its index says")
    return mask


def _decode_layer(data: bytes, code: str, size: int, kept: int) -> np.ndarray | None:
    """A layer's packed bits; ``None`` if they cannot be had from this code."""
    length = (size + 7) // 8
    if code == "gaps":
        if not 0 <= kept <= size:
            return None
        gaps = _inflate(data, kept + size // 255)
        return None if gaps is None else _from_gaps(gaps, size)
    packed = data if code == "bits" else _inflate(data, length) if code == "deflate" else None
    if packed is None or len(packed) != length:
        return None
    return np.frombuffer(packed, dtype=np.uint8)


def _inflate(data: bytes, most: int) -> bytes | None:
    """The inflated bytes, if they are at most ``most``."""
    unpacker = zlib.decompressobj(-15)
    try:
        # One byte more than allowed tells a bomb without unpacking it.
        unpacked = unpacker.decompress(data, most + 1)
    except zlib.error:
        return None
    whole = len(unpacked) <= most and unpacker.eof and not unpacker.unused_data
    return unpacked if whole else None


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
