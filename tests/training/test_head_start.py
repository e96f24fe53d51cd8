"""A head that is solved before the mask moves."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rtl_continual.streams import ArraySet
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, TicketLearner, TrunkCache, learn_ticket, start_head

MakeData = Callable[..., ArraySet]


def started(bank: TicketBank, data: ArraySet, **options: object) -> tuple[TicketLearner, float]:
    """A learner at its start, and its loss on the data as a step sees it."""
    config = TicketConfig(sparsity=0.5, shift=0, **options)  # type: ignore[arg-type]
    cache = TrunkCache(bank, data, 2**30)
    learner = TicketLearner(bank, config, total_steps=10, seed=0)
    start_head(learner, cache)
    activation, _, targets = cache.batch(torch.arange(len(data)))
    loss = bank.task.loss(learner.head(learner.represent(activation)), targets)
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


def test_learning_goes_on_from_it(bank: TicketBank, make_data: MakeData) -> None:
    losses: dict[str, list[float]] = {}
    for start in ("given", "probe"):
        said = losses.setdefault(start, [])
        learn_ticket(
            bank,
            make_data(0),
            TicketConfig(sparsity=0.5, epochs=1, head_start=start),  # type: ignore[arg-type]
            info=TicketInfo(start),
            seed=0,
            on_epoch=lambda epoch, said=said: said.append(epoch["loss"]),  # type: ignore[misc]
        )
    assert losses["probe"][0] < losses["given"][0]
