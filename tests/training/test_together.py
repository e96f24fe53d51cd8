"""Several tickets of one data set, learned together with the router."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rtl_continual.errors import BankError, DataError
from rtl_continual.streams import ArraySet, concatenate
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import (
    CacheRows,
    TicketConfig,
    TrunkCache,
    commit_tickets,
    learn_ticket,
    learn_tickets,
    take_turns,
)

MakeData = Callable[..., ArraySet]

CONFIG = TicketConfig(epochs=2, batch_size=16, sparsity=0.8)


@pytest.fixture
def mixed(bank: TicketBank, make_data: MakeData) -> tuple[TrunkCache, list[torch.Tensor]]:
    """Two domains of different sizes in one data set, and the rows of each."""
    parts = [make_data(0, 90), make_data(1, 50)]
    order = torch.randperm(140, generator=torch.Generator().manual_seed(0))
    cache = TrunkCache(bank, concatenate(parts).subset(order.numpy()), 10**8)
    return cache, [torch.nonzero(order < 90).flatten(), torch.nonzero(order >= 90).flatten()]


def infos(*names: str) -> list[TicketInfo]:
    return [TicketInfo(name) for name in names]


def test_together_each_ticket_is_what_it_would_be_alone(
    bank: TicketBank, mixed: tuple[TrunkCache, list[torch.Tensor]]
) -> None:
    cache, groups = mixed
    told: list[dict[str, float]] = []
    both, _ = learn_tickets(
        bank, cache, groups, CONFIG, infos=infos("a", "b"), seed=0, on_epoch=told.append
    )
    alone = [
        learn_tickets(bank, cache, [rows], CONFIG, infos=infos("x"), seed=0)[0][0]
        for rows in groups
    ]
    assert [t.mask for t in both] == [t.mask for t in alone]
    for one, other in zip(both, alone, strict=True):
        for name, tensor in one.tensors().items():
            assert torch.equal(tensor, other.tensors()[name]), name
    assert [t.id for t in both] == [0, 1]
    assert [t.info.samples for t in both] == [90, 50]
    assert both[1].info.similarity == both[1].mask.jaccard(both[0].mask)
    assert [event["epoch"] for event in told] == [0, 1]
    assert told[1]["loss"] < told[0]["loss"]


def test_a_whole_data_set_is_the_single_case(bank: TicketBank, make_data: MakeData) -> None:
    data = make_data()
    single, _ = learn_ticket(bank, data, CONFIG, info=TicketInfo("a"), seed=3)
    cache = TrunkCache(bank, data, CONFIG.cache_bytes)
    (ticket,), _ = learn_tickets(
        bank, cache, [torch.arange(len(data))], CONFIG, infos=infos("a"), seed=3
    )
    assert ticket.fingerprint == single.fingerprint


def test_one_gate_learns_all_new_tickets_and_the_old_ones(
    bank: TicketBank,
    make_data: MakeData,
    mixed: tuple[TrunkCache, list[torch.Tensor]],
) -> None:
    old, learner = learn_ticket(bank, make_data(2), CONFIG, info=TicketInfo("old"), seed=0)
    commit_tickets(bank, [old], learner.gate)
    cache, groups = mixed
    config = CONFIG.model_copy(update={"epochs": 8})
    tickets, learners = learn_tickets(bank, cache, groups, config, infos=infos("a", "b"), seed=0)
    assert learners[0].gate is learners[1].gate
    assert learners[0].gate is not None
    weight, bias = learners[0].gate.folded()
    assert weight.shape[0] == 3
    for number, rows in enumerate(groups):
        logits = cache.features[rows].double() @ weight.T + bias
        assert (logits.argmax(dim=1) == number + 1).float().mean() > 0.9
    assert [t.info.parent for t in tickets] == [0, 0]
    commit_tickets(bank, tickets, learners[0].gate)
    assert bank.names == ("old", "a", "b")
    for domain, number in ((2, 0), (0, 1), (1, 2)):
        ids = bank.predict(make_data(domain, 60, seed=5).images).ticket_ids
        assert (ids == number).float().mean() > 0.9


def test_all_tickets_are_committed_or_none(
    bank: TicketBank, mixed: tuple[TrunkCache, list[torch.Tensor]]
) -> None:
    cache, groups = mixed
    tickets, learners = learn_tickets(bank, cache, groups, CONFIG, infos=infos("a", "a"), seed=0)
    router = bank.router
    with pytest.raises(BankError, match="named 'a' is already"):
        commit_tickets(bank, tickets, learners[0].gate)
    assert (len(bank), bank.router) == (0, router)


def test_a_group_without_samples_is_refused(
    bank: TicketBank, mixed: tuple[TrunkCache, list[torch.Tensor]]
) -> None:
    cache, groups = mixed
    for given in ([], [groups[0], groups[1][:0]]):
        with pytest.raises(DataError, match="a group of at least one sample"):
            learn_tickets(bank, cache, given, CONFIG, infos=infos("a", "b"), seed=0)


def test_groups_end_an_epoch_together() -> None:
    assert take_turns([3]) == [0, 0, 0]
    turns = take_turns([6, 2, 1])
    assert [turns.count(group) for group in range(3)] == [6, 2, 1]
    assert set(turns[-3:]) == {0, 1, 2}


def test_rows_of_a_cache_are_a_cache(mixed: tuple[TrunkCache, list[torch.Tensor]]) -> None:
    cache, groups = mixed
    part = CacheRows(cache, groups[1])
    assert torch.equal(part.targets, cache.targets[groups[1]])
    for one, other in zip(
        part.batch(torch.tensor([3, 0])), cache.batch(groups[1][[3, 0]]), strict=True
    ):
        assert torch.equal(one, other)
