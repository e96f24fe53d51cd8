"""The strategy grows without domain names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from rtl_continual.avalanche import RoutedTickets, TicketPlugin, domain_benchmark
from rtl_continual.discovery import DiscoveryConfig
from rtl_continual.errors import DataError, RTLError
from rtl_continual.streams import Experience, Stream, concatenate
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, TrunkCache, commit_tickets, learn_tickets

from .conftest import part

Make = Callable[..., RoutedTickets]

ONE = DiscoveryConfig.model_validate(
    {"min_support": 20, "clusterer": {"name": "gaussian_mixture", "max_clusters": 1}}
)
SMALL = DiscoveryConfig.model_validate(
    {"min_support": 20, "clusterer": {"name": "gaussian_mixture", "max_clusters": 2}}
)


@pytest.fixture
def mixed(stream: Stream) -> Any:
    """Both domains shuffled into one experience, then each of them again."""
    both = concatenate([e.train for e in stream.experiences])
    order = [i // 2 + 37 * (i % 2) for i in range(74)]
    first = Experience("both", both.subset(order), both.subset(order[:10]))
    return domain_benchmark(
        Stream("mixed", stream.classes, stream.domains, (first, *stream.experiences), stream.tests)
    )


def test_hidden_domains_get_a_ticket_each_and_none_when_they_return(make: Make, mixed: Any) -> None:
    strategy = make(growth="discover", discovery=SMALL)
    strategy.train(mixed.train_stream)
    assert strategy.bank.names == ("cluster 0", "cluster 1")
    assert [ticket.info.samples for ticket in strategy.bank] == [37, 37]
    assert all(ticket.info.domain_counts == {} for ticket in strategy.bank)
    assert strategy.growth is not None
    assert strategy.growth.found is not None
    assert strategy.growth.found.new == ()


def test_new_clusters_are_learned_together_as_without_avalanche(
    make: Make, mixed: Any, empty_bank: TicketBank, config: TicketConfig, stream: Stream
) -> None:
    strategy = make(growth="discover", discovery=SMALL)
    strategy.train(mixed.train_stream[0])
    assert strategy.growth is not None
    assert strategy.growth.found is not None
    both = concatenate([e.train for e in stream.experiences])
    data = both.subset([i // 2 + 37 * (i % 2) for i in range(74)])
    cache = TrunkCache(empty_bank, data, config.cache_bytes)
    groups = [torch.from_numpy(strategy.growth.found.members(t)) for t in (0, 1)]
    infos = [TicketInfo("a"), TicketInfo("b")]
    tickets, learners = learn_tickets(empty_bank, cache, groups, config, infos=infos, seed=5)
    commit_tickets(empty_bank, tickets, learners[0].gate)
    assert [t.fingerprint for t in strategy.bank] == [t.fingerprint for t in empty_bank]
    assert torch.equal(strategy.bank.router.weight, empty_bank.router.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("cache_trunk", [False, True])
def test_periodic_evaluation_sees_all_new_tickets(
    make: Make, mixed: Any, cache_trunk: bool
) -> None:
    seen: list[int] = []
    learners: set[int] = set()

    class Look(TicketPlugin):
        def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
            seen.append(len(strategy.model.bank_in_use))

        def after_update(self, strategy: Any, **kwargs: Any) -> None:
            learners.add(strategy.learner.group)

    added: list[int] = []

    class Count(TicketPlugin):
        def after_ticket_added(self, strategy: Any, **kwargs: Any) -> None:
            added.append(len(strategy.bank))

    strategy = make(
        growth="discover",
        discovery=SMALL,
        plugins=[Look(), Count()],
        eval_every=1,
        cache_trunk=cache_trunk,
    )
    strategy.train(mixed.train_stream[0], eval_streams=[mixed.test_stream[0]])
    # One evaluation comes before training.
    assert set(seen) == {0, 2}
    assert learners == {0, 1}
    assert added == [2]


def test_a_replaced_loader_cannot_say_whose_batch_it_is(make: Make, mixed: Any) -> None:
    class Replace(TicketPlugin):
        def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            strategy.dataloader = list(strategy.dataloader)

    strategy = make(growth="discover", discovery=SMALL, plugins=[Replace()])
    with pytest.raises(RTLError, match="2 new tickets are learned together, and a plugin"):
        strategy.train(mixed.train_stream[0])
    assert len(strategy.bank) == 0


def test_clusters_are_learned_as_experiences_would_be(
    make: Make, benchmark_: Any, learned_alone: TicketBank
) -> None:
    strategy = make(growth="discover", discovery=SMALL)
    strategy.train(benchmark_.train_stream[0])
    assert [t.fingerprint for t in strategy.bank] == [t.fingerprint for t in learned_alone]


@pytest.fixture
def learned_alone(make: Make, benchmark_: Any) -> TicketBank:
    strategy = make()
    strategy.train(benchmark_.train_stream[0])
    return strategy.bank


def test_tickets_in_the_bank_are_known(make: Make, mixed: Any, benchmark_: Any) -> None:
    first = make()
    first.train(benchmark_.train_stream)
    grown = make(bank=first.bank, growth="discover", discovery=SMALL)
    grown.train(mixed.train_stream[0])
    assert len(grown.bank) == 2


def test_too_few_samples_for_a_first_ticket_are_told(make: Make, mixed: Any) -> None:
    strategy = make(growth="discover", discovery=DiscoveryConfig(min_support=60))
    with pytest.raises(DataError, match="no cluster of at least 60; lower min_support"):
        strategy.train(mixed.train_stream[1])


def test_an_experience_without_samples_is_named(make: Make, mixed: Any) -> None:
    strategy = make(growth="discover", discovery=SMALL)
    empty = copy.copy(mixed.train_stream[1])
    empty._dataset = empty.dataset.subset([])
    with pytest.raises(DataError, match="has no samples"):
        strategy.train(empty)


def test_a_full_bank_says_so(make: Make, mixed: Any) -> None:
    full = SMALL.model_copy(update={"max_tickets": 1})
    strategy = make(growth="discover", discovery=full)
    with pytest.warns(UserWarning, match=r"1 clusters get no ticket.*max_tickets \(1\)"):
        strategy.train(mixed.train_stream[0])
    assert len(strategy.bank) == 1


def test_options_that_do_not_fit_are_refused(make: Make) -> None:
    with pytest.raises(RTLError, match="'per_experience' or 'discover', got 'auto'"):
        make(growth="auto")
    with pytest.raises(RTLError, match="need growth='discover'"):
        make(discovery=SMALL)


def fading_stream(stream: Stream) -> Stream:
    """Red, at whose end green sets in, then green and, last, red again."""
    red, green = (part(d, 160, 4) for d in range(2))
    late = concatenate([red.subset(range(130, 160)), green.subset(range(30))])
    mixed = late.subset([i // 2 + 30 * (i % 2) for i in range(60)])
    trains = (
        concatenate([red.subset(range(130)), mixed]),
        green.subset(range(30, 160)),
        part(0, 80, 5),
    )
    experiences = tuple(Experience(str(i), train, train) for i, train in enumerate(trains))
    return replace(stream, experiences=experiences)


@pytest.fixture
def fading(stream: Stream) -> Any:
    return domain_benchmark(fading_stream(stream))


def test_early_samples_of_the_next_domain_wait_and_are_learned_with_it(
    make: Make, fading: Any
) -> None:
    strategy = make(growth="discover", discovery=ONE)
    strategy.train(fading.train_stream[0])
    assert strategy.waiting == 30
    assert [ticket.info.samples for ticket in strategy.bank] == [160]
    # A failure forgets nothing.
    with pytest.raises(RTLError, match="batch_size"):
        strategy.train(fading.train_stream[1], batch_size=3)
    assert strategy.waiting == 30
    strategy.train(fading.train_stream[1:])
    assert strategy.waiting == 0
    assert [ticket.info.samples for ticket in strategy.bank] == [160, 160]


def test_with_hold_back_0_nothing_waits(make: Make, fading: Any) -> None:
    off = ONE.model_copy(update={"hold_back": 0.0})
    strategy = make(growth="discover", discovery=off)
    strategy.train(fading.train_stream[0])
    assert strategy.waiting == 0
    assert [ticket.info.samples for ticket in strategy.bank] == [190]


def test_who_stops_early_can_have_the_waiting_samples_learned(make: Make, fading: Any) -> None:
    strategy = make(growth="discover", discovery=ONE)
    strategy.train(fading.train_stream[0])
    strategy.train_waiting()
    assert strategy.waiting == 0
    assert [ticket.info.samples for ticket in strategy.bank] == [160, 30]
    strategy.train_waiting()
    make().train_waiting()
    assert len(strategy.bank) == 2


def test_the_last_experience_of_a_stream_lets_nothing_wait(make: Make, stream: Stream) -> None:
    whole = fading_stream(stream)
    alone = domain_benchmark(replace(whole, experiences=whole.experiences[:1]))
    strategy = make(growth="discover", discovery=ONE)
    strategy.train(alone.train_stream)
    assert strategy.waiting == 0
    assert [ticket.info.samples for ticket in strategy.bank] == [190]
