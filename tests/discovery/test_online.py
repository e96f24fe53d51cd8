"""Detectors and discovery on mini-batches."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rtl_continual.discovery import (
    DiscoveryConfig,
    KnownTickets,
    OnlineDiscovery,
    build_detector,
    detector_config_class,
    detector_names,
)
from rtl_continual.errors import DataError, PluginError, RTLError

WIDTH = 10


def samples(count: int, at: float = 0.0, seed: int = 0) -> torch.Tensor:
    x = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    x[:, 0] += at
    return x


def known() -> KnownTickets:
    tickets = KnownTickets()
    tickets.learn(samples(300))
    return tickets


def test_page_hinkley_alarms_after_a_shift_and_not_before() -> None:
    tickets = known()
    detector = build_detector(detector_config_class("page_hinkley")())
    for seed in range(1, 60):
        assert not detector.update(samples(32, seed=seed), tickets).shift
    verdicts = [detector.update(samples(32, at=15.0, seed=seed), tickets) for seed in range(3)]
    assert verdicts[-1].shift
    assert verdicts[-1].level > verdicts[0].level
    assert detector.update(samples(32, seed=70), tickets).shift, "an alarm stays until reset"
    detector.reset()
    assert not detector.update(samples(32, seed=71), tickets).shift


def test_a_stream_that_starts_outside_alarms_too() -> None:
    detector = build_detector(detector_config_class("page_hinkley")())
    assert detector.update(samples(8), KnownTickets()).shift


def test_adwin_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    monkeypatch.setitem(sys.modules, "river.drift", None)
    with pytest.raises(PluginError, match=r"pip install 'rtl-continual\[drift\]'"):
        build_detector(detector_config_class("adwin")())


def test_adwin_alarms_after_a_rise() -> None:
    pytest.importorskip("river", reason="the extra `drift` is not installed")
    detector = build_detector(detector_config_class("adwin")())
    quiet = np.random.default_rng(0).normal(0.2, 0.05, 60)
    assert not any(detector.observe(float(value)).shift for value in quiet)
    assert any(detector.observe(3.0).shift for _ in range(15))


def test_detectors_by_name() -> None:
    assert detector_names() == ("adwin", "page_hinkley")
    with pytest.raises(RTLError, match="unknown shift detector 'page'"):
        detector_config_class("page")


def test_a_new_cluster_is_found_once_and_then_served() -> None:
    online = OnlineDiscovery(known())
    for seed in range(1, 10):
        step = online.update(samples(32, seed=seed))
        assert step.found is None
        assert (step.ticket_ids == 0).mean() > 0.9
    found = [online.update(samples(32, at=15.0, seed=seed)).found for seed in range(20, 24)]
    assert [decision is not None for decision in found] == [False, True, False, False]
    assert found[1] is not None
    assert found[1].new == (1,)
    served = online.update(samples(32, at=15.0, seed=40))
    assert (served.ticket_ids == 1).mean() > 0.9
    for seed in range(50, 75):
        assert online.update(samples(32, at=15.0 * (seed % 2), seed=seed)).found is None
    assert len(online.known) == 2


def test_memory_is_capped() -> None:
    online = OnlineDiscovery(known(), DiscoveryConfig(memory=100))
    for seed in range(1, 8):
        online.update(samples(32, seed=seed))
    assert online.remembered == 100
    # A batch larger than the memory is judged by its latest samples alone.
    step = online.update(samples(150, at=15.0, seed=9))
    assert len(step.ticket_ids) == 150
    assert online.remembered == 0


def test_a_burst_below_the_support_makes_no_ticket() -> None:
    online = OnlineDiscovery(known(), DiscoveryConfig(min_support=50))
    for seed in range(1, 30):
        batch = samples(32, seed=seed)
        if seed == 5:
            batch = torch.cat([batch, samples(30, at=60.0, seed=99)])
        assert online.update(batch).found is None


def test_an_alarm_that_finds_nothing_ends() -> None:
    online = OnlineDiscovery(known(), DiscoveryConfig(min_support=50))
    alarms = []
    for seed in range(1, 60):
        batch = samples(32, seed=seed)
        if seed in (5, 6):
            batch = torch.cat([batch[:12], samples(20, at=60.0, seed=90 + seed)])
        step = online.update(batch)
        assert step.found is None
        alarms.append(step.verdict.shift)
    assert any(alarms[4:6])
    assert not any(alarms[6:])


def test_a_domain_of_a_few_samples_a_batch_gathers_support() -> None:
    config = DiscoveryConfig(memory=160, min_support=50)
    online, found_at = OnlineDiscovery(known(), config), []
    for seed in range(1, 40):
        batch = torch.cat([samples(29, seed=seed), samples(3, at=40.0, seed=200 + seed)])
        if online.update(batch).found is not None:
            found_at.append(seed)
    # No memory of 160 samples holds 50 of them; 3 a batch make 50 after 17 batches.
    assert len(found_at) == 1
    assert 17 <= found_at[0] <= 24
    assert len(online.known) == 2


def test_a_group_beyond_the_cap_is_told_once_and_the_alarm_ends() -> None:
    online = OnlineDiscovery(known(), DiscoveryConfig(max_tickets=1))
    for seed in range(1, 5):
        assert online.update(samples(32, seed=seed)).found is None
    steps = [online.update(samples(32, at=30.0, seed=10 + seed)) for seed in range(2)]
    told = [step.found for step in steps if step.found is not None]
    assert [(found.new, found.capped) for found in told] == [((), 1)]
    later = [online.update(samples(32, seed=seed)) for seed in range(20, 30)]
    assert not any(step.verdict.shift for step in later)
    assert all(step.found is None for step in later)


def test_a_memory_below_the_support_is_refused() -> None:
    with pytest.raises(ValidationError, match="memory: 40 is below min_support: 50"):
        DiscoveryConfig(memory=40)


def test_bad_batches_are_named() -> None:
    online = OnlineDiscovery(known())
    with pytest.raises(DataError, match="empty"):
        online.update(samples(0))
    broken = samples(4)
    broken[2, 1] = torch.nan
    with pytest.raises(DataError, match="sample 2 are not finite"):
        online.update(broken)
    assert online.remembered == 0
    assert len(online.update(samples(1)).ticket_ids) == 1
