"""Streams by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from rtl_continual.errors import RTLError, unknown_name
from rtl_continual.streams._stream import Stream
from rtl_continual.streams.digits import DigitsConfig, build_digits

__all__ = ["build_stream", "stream_config_class", "stream_names"]

_STREAMS: dict[str, tuple[type[BaseModel], Callable[[Any], Stream]]] = {
    "digits": (DigitsConfig, build_digits),
}


def stream_names() -> tuple[str, ...]:
    """The names of all streams, sorted."""
    return tuple(sorted(_STREAMS))


def stream_config_class(name: str) -> type[BaseModel]:
    """The options of the stream called ``name``.

    Raises:
        RTLError: if there is no such stream.
    """
    if name not in _STREAMS:
        raise RTLError(unknown_name("stream", name, _STREAMS))
    return _STREAMS[name][0]


def build_stream(config: BaseModel) -> Stream:
    """Build the stream that ``config`` describes.

    Args:
        config: an instance of a stream's own config class.

    Raises:
        RTLError: if no stream has such a config.

    Example:
        >>> build_stream(DigitsConfig(domains=["printed"], images_per_domain=20)).domains
        ('printed',)
    """
    for config_class, builder in _STREAMS.values():
        if type(config) is config_class:
            return builder(config)
    raise RTLError(unknown_name("stream config", type(config).__name__, _config_names()))


def _config_names() -> list[str]:
    return [config_class.__name__ for config_class, _ in _STREAMS.values()]
