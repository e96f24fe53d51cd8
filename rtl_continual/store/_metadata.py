"""The facts in the head of a blob, read without torch."""

from __future__ import annotations

from typing import Any

from rtl_continual.errors import BankError
from rtl_continual.store._manifest import check_format
from rtl_continual.store._sealed import parse_json

__all__ = ["METADATA_KEY", "read_metadata"]

METADATA_KEY = "rtl_continual"
"""The one metadata key of every blob; its value is canonical JSON."""


def read_metadata(kind: str, data: bytes, source: str) -> dict[str, Any]:
    """The facts of a blob, without decoding its tensors.

    Args:
        kind: ``ticket``, ``router`` or ``backbone``.
        data: the blob.
        source: for messages.

    Raises:
        BankError: if the bytes are no such blob, or of a newer format.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise BankError(f"{source} is no safetensors file")
    header = parse_json(data[8 : 8 + length], source)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or list(metadata) != [METADATA_KEY]:
        raise BankError(
            f"{source} is no blob of a bank: it lacks the metadata key '{METADATA_KEY}'"
        )
    facts: dict[str, Any] = parse_json(str(metadata[METADATA_KEY]).encode(), source)
    check_format(facts, f"rtl-continual-{kind}", source)
    return facts
