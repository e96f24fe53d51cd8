"""Streams by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from rtl_continual.errors import PluginError, RTLError, unknown_name
from rtl_continual.registry import Registry, config_problem
from rtl_continual.streams._domainnet_check import prepare_domainnet, verify_domainnet
from rtl_continual.streams._folders_check import verify_folders
from rtl_continual.streams._prepare import Progress
from rtl_continual.streams._stream import Stream
from rtl_continual.streams._verify import VerifyReport
from rtl_continual.streams.digits import DigitsConfig, build_digits
from rtl_continual.streams.domainnet import DomainNetConfig, build_domainnet
from rtl_continual.streams.emoji import (
    EmojiConfig,
    build_emoji,
    prepare_emoji,
    verify_emoji,
)
from rtl_continual.streams.folders import FoldersConfig, build_folders
from rtl_continual.streams.glyphs import GlyphsConfig, build_glyphs
from rtl_continual.streams.photos import PhotosConfig, build_photos

__all__ = [
    "BUILT_IN_STREAMS",
    "StreamSource",
    "build_stream",
    "prepare_stream",
    "stream_config_class",
    "stream_names",
    "verify_stream",
]


@dataclass(frozen=True)
class StreamSource:
    """A stream's options and what can be done with it.

    Args:
        config_class: its options.
        build: makes the stream that an instance of ``config_class`` describes.
        prepare: fetches what its data lacks; none if it fetches nothing.
        verify: checks its files; none if it has none.
    """

    config_class: type[BaseModel]
    build: Callable[[Any], Stream]
    prepare: Callable[[Any, Progress | None], None] | None = None
    verify: Callable[..., VerifyReport] | None = None


BUILT_IN_STREAMS = {
    "digits": StreamSource(DigitsConfig, build_digits),
    "domainnet": StreamSource(
        DomainNetConfig, build_domainnet, prepare_domainnet, verify_domainnet
    ),
    "emoji": StreamSource(EmojiConfig, build_emoji, prepare_emoji, verify_emoji),
    "folders": StreamSource(FoldersConfig, build_folders, verify=verify_folders),
    "glyphs": StreamSource(GlyphsConfig, build_glyphs),
    "photos": StreamSource(PhotosConfig, build_photos),
}
"""What the built-in plugin registers."""


def _check(name: str, value: Any) -> str | None:
    if not isinstance(value, StreamSource):
        return f"must be a rtl_continual.streams.StreamSource, got {value!r}"
    return config_problem(name, value.config_class)


_STREAMS: Registry[StreamSource] = Registry("stream", _check)


def stream_names() -> tuple[str, ...]:
    """The names of all streams, sorted."""
    return tuple(_STREAMS)


def stream_config_class(name: str) -> type[BaseModel]:
    """The options of the stream called ``name``.

    Raises:
        RTLError: if there is no such stream.
    """
    return _STREAMS.find(name).config_class


def build_stream(config: BaseModel) -> Stream:
    """Build the stream that ``config`` describes.

    Args:
        config: an instance of a stream's own config class.

    Raises:
        RTLError: if no stream has such a config.
        PluginError: if a plugin's builder gives something else than a stream.

    Example:
        >>> build_stream(DigitsConfig(domains=["printed"], images_per_domain=20)).domains
        ('printed',)
    """
    name, source = _kind_of(config)
    stream = source.build(config)
    if not isinstance(stream, Stream):
        raise PluginError(f"stream '{name}': its builder must give a Stream, got {stream!r}")
    return stream


def prepare_stream(config: BaseModel, progress: Progress | None = None) -> None:
    """Fetch what a stream's data lacks, where its publisher can be reached.

    A stream that fetches nothing is left as it is.

    Args:
        config: an instance of a stream's own config class.
        progress: called with what is being done, bytes done, and bytes in total if known.

    Raises:
        RTLError: if no stream has such a config.
        DataError: if something cannot be had; the message says which files to put where.
    """
    _, kind = _kind_of(config)
    if kind.prepare is not None:
        kind.prepare(config, progress)


def verify_stream(
    config: BaseModel, *, sample: int | None = 100, progress: Progress | None = None
) -> VerifyReport:
    """Check a stream's files.

    Args:
        config: an instance of a stream's own config class.
        sample: how many images of each domain and part to decode; ``None`` decodes all.
        progress: called with what is being done, how much is done, and how much there is.

    Raises:
        RTLError: if no stream has such a config, or the stream has no files.
    """
    name, kind = _kind_of(config)
    if kind.verify is None:
        raise RTLError(f"stream '{name}' has no files to verify: it is made on this machine")
    return kind.verify(config, sample=sample, progress=progress)


def _kind_of(config: BaseModel) -> tuple[str, StreamSource]:
    for name, kind in _STREAMS.items():
        if type(config) is kind.config_class:
            return name, kind
    names = [kind.config_class.__name__ for kind in _STREAMS.values()]
    raise RTLError(unknown_name("stream config", type(config).__name__, names))
