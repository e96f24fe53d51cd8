"""Streams by name."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from rtl_continual.errors import RTLError
from rtl_continual.streams import (
    DigitsConfig,
    build_stream,
    stream_config_class,
    stream_names,
)


def test_digits_is_registered() -> None:
    assert "digits" in stream_names()
    config = stream_config_class("digits").model_validate({"domains": ["outline"]})
    assert config == DigitsConfig(domains=("outline",))
    assert build_stream(config).domains == ("outline",)


def test_unknown_stream_names_the_nearest() -> None:
    with pytest.raises(RTLError, match="unknown stream 'digitz'; did you mean 'digits'"):
        stream_config_class("digitz")


def test_unknown_config_is_refused() -> None:
    class Other(BaseModel):
        pass

    with pytest.raises(RTLError, match="unknown stream config 'Other'"):
        build_stream(Other())
