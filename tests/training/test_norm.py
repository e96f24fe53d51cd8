from __future__ import annotations

from collections.abc import Callable

import torch

from rtl_continual.streams import ArraySet
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, TicketLearner, TrunkCache, learn_ticket
from rtl_continual.training._norm import estimate_norm

MakeData = Callable[..., ArraySet]


def first_norm(learner: TicketLearner) -> torch.Tensor:
    return next(t for name, t in learner.norm.items() if name.endswith("running_mean"))


def test_statistics_are_the_averages_of_the_final_masks_batches(
    bank: TicketBank, make_data: MakeData
) -> None:
    cache = TrunkCache(bank, make_data(count=300), 10**8)
    config = TicketConfig(sparsity=0.8, shift=0)
    learner = TicketLearner(bank, config, total_steps=4, seed=0)
    for tensor in learner.norm.values():
        if not isinstance(tensor, torch.nn.Parameter):
            tensor.fill_(7)  # nothing of what was there is left
    estimate_norm(learner, cache)
    inputs = []
    layer = next(m for m in learner._body.module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    for first in range(2):
        learner.forward(cache.batch(torch.arange(first, 300, 2))[0], training=False)
    expected = torch.stack([x.mean(dim=(0, 2, 3)) for x in inputs]).mean(dim=0)
    assert torch.allclose(first_norm(learner), expected, atol=1e-5)
    assert learner.scores.mask().sparsity > 0.79
    assert layer.momentum == 0.1


def test_the_backbones_statistics_stay(bank: TicketBank, make_data: MakeData) -> None:
    cache = TrunkCache(bank, make_data(), 10**8)
    config = TicketConfig(norm_statistics="fixed", norm_share=0.0)
    learner = TicketLearner(bank, config, total_steps=4, seed=0)
    before = {name: tensor.clone() for name, tensor in learner.norm.items()}
    estimate_norm(learner, cache)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.norm.items())


def test_a_ticket_of_few_steps_answers_as_its_batches_did(
    bank: TicketBank, make_data: MakeData
) -> None:
    data = make_data()
    config = TicketConfig(sparsity=0.5, epochs=2, batch_size=16, shift=0)
    ticket, learner = learn_ticket(bank, data, config, info=TicketInfo("a"), seed=0)
    activation, _, _ = TrunkCache(bank, data, 10**8).batch(torch.arange(len(data)))
    with torch.no_grad():
        served = learner.forward(activation, training=False)
        trained = learner.head(learner.represent(activation, training=True))
    # Up to the factor n / (n - 1) of a running variance.
    assert torch.allclose(served, trained, atol=0.02)
    for name, tensor in ticket.norm.items():
        assert torch.equal(tensor, learner.norm[name])
