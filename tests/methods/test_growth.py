"""The method rtl with growth: discover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtl_continual.discovery import DiscoveryConfig
from rtl_continual.errors import DataError
from rtl_continual.routing import FlatRouterConfig
from rtl_continual.runs import load_scenario
from rtl_continual.runs._method import MethodConfig, RunContext
from rtl_continual.runs.methods import method_class
from rtl_continual.streams import Stream, concatenate
from rtl_continual.training import TicketConfig

from .conftest import images_of

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def test_growth_scenarios_load() -> None:
    for name in ("discover", "mixed", "recurring", "gradual", "classmix", "outliers", "classes"):
        scenario = load_scenario(SCENARIOS / f"digits_{name}.yaml")
        assert scenario.growth == "discover"
    one = load_scenario(SCENARIOS / "digits_discover.yaml", ["discovery.min_support=70"])
    assert one.discovery.min_support == 70


def sections(**options: Any) -> dict[str, Any]:
    values = {"min_support": 30, "clusterer": {"name": "gaussian_mixture", "max_clusters": 1}}
    return {
        "tickets": TicketConfig(),
        "router": FlatRouterConfig(),
        "growth": "discover",
        "discovery": DiscoveryConfig.model_validate({**values, **options}),
    }


def test_each_hidden_domain_gets_one_ticket_and_none_when_it_comes_back(
    make_context: Callable[..., RunContext],
) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    context = make_context(
        sections=sections(), epochs=1, emit=lambda name, **facts: events.append((name, facts))
    )
    method = method_class("rtl")(context, MethodConfig())
    for index in (0, 1, 0, 2, 1):
        method.learn(index)
    assert [facts["new"] for name, facts in events if name == "discovery"] == [1, 1, 0, 1, 0]
    assert [ticket.info.cluster for ticket in method.bank] == [
        "cluster 0",
        "cluster 1",
        "cluster 2",
    ]
    assert [set(ticket.info.domain_counts) for ticket in method.bank] == [
        {"red"},
        {"green"},
        {"blue"},
    ]
    method.finish_evaluation(context.stream.tests)
    facts = method.details()["discovery"]
    assert facts["clusters_found"] == 3
    assert facts["adjusted_rand_index"] > 0.95
    assert facts["false_alarms"] == 0
    assert facts["delay_in_mini_batches"] == [1, 1]
    assert facts["detector_false_alarms"] == 0
    assert facts["merge_proposals"] == []
    assert facts["seconds"] > 0
    assert facts["share_of_training"] > 0


def test_an_experience_below_the_support_says_what_to_do(
    make_context: Callable[..., RunContext],
) -> None:
    method = method_class("rtl")(make_context(sections=sections(min_support=60)), MethodConfig())
    with pytest.raises(DataError, match=r"49 samples and no cluster.*lower discovery\.min_support"):
        method.learn(0)


def faded(stream: Stream) -> Stream:
    """Red, of which the last third has green images too, then green, then blue."""
    red, green, blue = (e.train for e in stream.experiences)
    more = images_of(0, 120, seed=3)
    early, late = images_of(1, 30, seed=4), more.subset(np.arange(90, 120))
    end = concatenate([late, early]).subset([i // 2 + 30 * (i % 2) for i in range(60)])
    parts = (concatenate([red, more.subset(np.arange(90)), end]), green, blue)
    return replace(
        stream,
        experiences=tuple(
            replace(e, train=part) for e, part in zip(stream.experiences, parts, strict=True)
        ),
    )


@pytest.mark.parametrize("hold_back", [0.33, 0.0])
def test_early_images_of_the_next_domain_are_learned_with_it(
    make_context: Callable[..., RunContext], stream: Stream, hold_back: float
) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    context = make_context(
        stream=faded(stream),
        sections=sections(hold_back=hold_back),
        epochs=1,
        emit=lambda name, **facts: events.append((name, facts)),
    )
    method = method_class("rtl")(context, MethodConfig())
    for index in range(3):
        method.learn(index)
    method.finish_evaluation(context.stream.tests)
    facts = method.details()["discovery"]
    counts = [dict(ticket.info.domain_counts) for ticket in method.bank]
    held = [facts["held_back"] for name, facts in events if name == "discovery"]
    if hold_back:
        assert counts == [{"red": 169}, {"green": 79}, {"blue": 49}]
        assert held == [30, 0, 0]
        assert facts["adjusted_rand_index"] == 1.0
        assert facts["held_back"] == 30
    else:
        assert counts[0] == {"red": 169, "green": 30}
        assert held == [0, 0, 0]
        assert facts["held_back"] == 0
    assert facts["unassigned"] == 0
