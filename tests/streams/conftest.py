"""One rendered digits stream for the whole room."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtl_continual.streams import DigitsConfig, Stream, build_digits


@pytest.fixture(scope="session")
def digits(session_cache: Path) -> Stream:
    """The default stream; afterwards its images lie in the session's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTL_CACHE", str(session_cache))
        return build_digits(DigitsConfig())
