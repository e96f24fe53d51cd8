"""Streams by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from rtl_continual.errors import RTLError, unknown_name
from rtl_continual.streams._domainnet_check import prepare_domainnet, verify_domainnet
from rtl_continual.streams._folders_check import verify_folders
from rtl_continual.streams._prepare import Progress
from rtl_continual.streams._stream import Stream
from rtl_continual.streams._verify import VerifyReport
from rtl_continual.streams.digits import DigitsConfig, build_digits
from rtl_continual.streams.domainnet import DomainNetConfig, build_domainnet
from rtl_continual.streams.folders import FoldersConfig, build_folders

__all__ = [
    "build_stream",
    "prepare_stream",
    "stream_config_class",
    "stream_names",
    "verify_stream",
]


@dataclass(frozen=True)
class _Kind:
    """A stream's options and what can be done with it."""

    config_class: type[BaseModel]
    build: Callable[[Any], Stream]
    prepare: Callable[[Any, Progress | None], None] | None = None
    verify: Callable[..., VerifyReport] | None = None


_STREAMS = {
    "digits": _Kind(DigitsConfig, build_digits),
    "domainnet": _Kind(DomainNetConfig, build_domainnet, prepare_domainnet, verify_domainnet),
    "folders": _Kind(FoldersConfig, build_folders, verify=verify_folders),
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
    return _STREAMS[name].config_class


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
    return _kind_of(config)[1].build(config)


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


def _kind_of(config: BaseModel) -> tuple[str, _Kind]:
    for name, kind in _STREAMS.items():
        if type(config) is kind.config_class:
            return name, kind
    names = [kind.config_class.__name__ for kind in _STREAMS.values()]
    raise RTLError(unknown_name("stream config", type(config).__name__, names))
