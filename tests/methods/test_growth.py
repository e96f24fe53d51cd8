"""The method rtl with growth: discover."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtl_continual.discovery import DiscoveryConfig
from rtl_continual.errors import DataError
from rtl_continual.routing import FlatRouterConfig
from rtl_continual.runs import load_scenario
from rtl_continual.runs._method import MethodConfig, RunContext
from rtl_continual.runs.methods import method_class
from rtl_continual.training import TicketConfig

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
