"""A head that is solved before the mask moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rtl_continual.errors import DataError
from rtl_continual.streams import ArraySet
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import (
    TicketConfig,
    TicketLearner,
    TrunkCache,
    learn_ticket,
    start_head,
)

MakeData = Callable[..., ArraySet]


def started(bank: TicketBank, data: ArraySet, **options: object) -> tuple[TicketLearner, float]:
    """A learner at its start, and its loss on the data as a step sees it."""
    config = TicketConfig(sparsity=0.5, shift=0, **options)  # type: ignore[arg-type]
    cache = TrunkCache(bank, data, 2**30)
    learner = TicketLearner(bank, config, total_steps=10, seed=0)
    start_head(learner, cache)
    activation, _, targets = cache.batch(torch.arange(len(data)))
    loss = bank.task.loss(learner.head(learner.represent(activation, training=True)), targets)
    return learner, float(loss.detach())


def test_a_probe_fits_from_the_start(bank: TicketBank, make_data: MakeData) -> None:
    _, fresh = started(bank, make_data(0))
    _, solved = started(bank, make_data(0), head_start="probe")
    assert solved < 0.5 * fresh


def test_decay_holds_the_head_small(bank: TicketBank, make_data: MakeData) -> None:
    norms = []
    for decay in (1e-4, 1.0):
        learner, _ = started(bank, make_data(0), head_start="probe", head_decay=decay)
        norms.append(float(learner.head.weight.detach().norm()))  # type: ignore[union-attr]
    assert norms[1] < 0.5 * norms[0]


def test_nothing_but_the_head_changes(bank: TicketBank, make_data: MakeData) -> None:
    given, _ = started(bank, make_data(0))
    probe, _ = started(bank, make_data(0), head_start="probe")
    assert torch.equal(given.scores.scores, probe.scores.scores)
    for name, value in given.norm.items():
        assert torch.equal(value, probe.norm[name])


def test_a_solved_finish_fits_the_final_mask(bank: TicketBank, make_data: MakeData) -> None:
    data, losses = make_data(0), {}
    for finish in ("trained", "probe"):
        config = TicketConfig(sparsity=0.8, epochs=1, head_finish=finish, head_decay=1e-4)  # type: ignore[arg-type]
        ticket, learner = learn_ticket(bank, data, config, info=TicketInfo(finish), seed=0)
        cache = TrunkCache(bank, data, 2**30)
        activation, _, targets = cache.batch(torch.arange(len(data)))
        outputs = learner.head(learner.represent(activation, training=False))
        losses[finish] = float(bank.task.loss(outputs, targets).detach())
        assert abs(ticket.mask.sparsity - 0.8) < 0.01
        assert torch.equal(ticket.head["weight"], learner.head.weight.detach())  # type: ignore[arg-type]
    assert losses["probe"] < 0.5 * losses["trained"]


def test_other_heads_are_refused(bank: TicketBank, make_data: MakeData) -> None:
    learner, _ = started(bank, make_data(0))
    learner.head = nn.Sequential(learner.head)
    learner.config = learner.config.model_copy(update={"head_start": "probe"})
    with pytest.raises(DataError, match="linear heads alone, the task's is a Sequential"):
        start_head(learner, TrunkCache(bank, make_data(0), 2**30))
