"""Canonical JSON, and small JSON files that carry their own SHA-256."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rtl_continual.errors import BankError

__all__ = ["canonical_json", "parse_json", "seal", "unseal"]

_MIDDLE = b',"sha256":"'
_END = b'"}\n'
_TAIL = len(_MIDDLE) + 64 + len(_END)


def canonical_json(value: Any) -> bytes:
    r"""Sorted keys, no spaces, ASCII with ``\u`` escapes, finite numbers only.

    Example:
        >>> canonical_json({"b": [1, 2.5], "a": None})
        b'{"a":null,"b":[1,2.5]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_json(data: bytes, source: str) -> Any:
    """Parse JSON from a file that may be damaged or hostile.

    Raises:
        BankError: if it is no JSON, holds NaN or infinity, or is nested too deeply.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BankError(f"{source} is damaged: it holds no valid JSON") from error


def seal(kind: str, value: Any) -> tuple[bytes, str]:
    """A JSON file ``{"<kind>":<value>,"sha256":"<hash>"}`` and the hash.

    The hash is over the bytes of the canonical value, so a reader can cut them out of the file
    without writing JSON itself.

    Args:
        kind: a key that sorts before ``sha256``.
        value: plain JSON values.
    """
    body = canonical_json(value)
    digest = hashlib.sha256(body).hexdigest()
    return b'{"%s":' % kind.encode() + body + _MIDDLE + digest.encode() + _END, digest


def unseal(kind: str, data: bytes, source: str) -> tuple[bytes, str]:
    """The bytes of the value in a sealed file, and their hash.

    Raises:
        BankError: if a single bit of the file is not as it was written.
    """
    head = b'{"%s":' % kind.encode()
    body = data[len(head) : -_TAIL]
    digest = hashlib.sha256(body).hexdigest()
    if data != head + body + _MIDDLE + digest.encode() + _END:
        raise BankError(
            f"{source} is damaged: its content does not match its SHA-256 "
            f"({len(data)} bytes read; it may be truncated)"
        )
    return body, digest
