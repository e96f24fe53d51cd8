"""One rendered digits stream for the whole room, in a cache folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtl_continual.streams import DigitsConfig, Stream, build_digits


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that starts empty."""
    return tmp_path_factory.mktemp("digits-cache")


@pytest.fixture(scope="session")
def digits(digits_cache: Path) -> Stream:
    """The default stream, rendered into :func:`digits_cache`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTL_CACHE", str(digits_cache))
        return build_digits(DigitsConfig())


@pytest.fixture
def cached(digits: Stream, digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a test build further streams from the images already rendered."""
    monkeypatch.setenv("RTL_CACHE", str(digits_cache))
    return digits_cache
