"""Options that come from the command line alone."""

from __future__ import annotations

import pytest

from rtl_continual.errors import ConfigError
from rtl_continual.problems import load_options
from rtl_continual.serving import ServeConfig
from rtl_continual.training import TicketConfig


def test_values_are_read_as_in_a_scenario_file() -> None:
    config = load_options("serve", ServeConfig, ["max_batch=8", "timeout=2.5", "max_batch=9"])
    assert (config.max_batch, config.timeout) == (9, 2.5)
    assert load_options("tickets", TicketConfig, ["collapse.level=0.3"]).collapse is not None
    assert load_options("serve", ServeConfig) == ServeConfig()


def test_all_problems_are_told_at_once() -> None:
    given = ["max_batch=no", "port=80", "watch", "timeout.s=3", "max_queue=[1"]
    with pytest.raises(ConfigError) as told:
        load_options("serve", ServeConfig, given)
    lines = sorted(told.value.problems)
    expected = [
        '--set max_batch: must be a whole number, got "no"',
        "--set max_queue: ",
        "--set port: unknown key. Available: max_batch, ",
        "--set timeout.s: ",
        "--set watch: must be key.path=value",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start), line
