"""Rare classes count as much as frequent ones, if asked to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rtl_continual.streams import ArraySet
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import (
    TicketConfig,
    TicketLearner,
    TrunkCache,
    balance_classes,
    learn_ticket,
)

MakeData = Callable[..., ArraySet]


def long_tail(data: ArraySet) -> ArraySet:
    """All of class 0, half of class 1, two images of class 2 and none of class 3."""
    rows = [np.flatnonzero(data.targets == label) for label in range(3)]
    return data.subset(np.concatenate([rows[0], rows[1][: len(rows[1]) // 2], rows[2][:2]]))


def test_the_logarithm_of_the_frequency_is_added_in_the_loss(
    bank: TicketBank, make_data: MakeData
) -> None:
    data = long_tail(make_data())
    cache = TrunkCache(bank, data, 10**8)
    options = TicketConfig(class_balance=2.0, sparsity_weight=0)
    learner = TicketLearner(bank, options, total_steps=5, seed=0)
    balance_classes(learner, cache)
    share = torch.tensor([24, 12, 2, 0.5]) / 38
    # In the loss alone: what the ticket answers is not shifted.
    outputs, targets = torch.zeros(38, 4), torch.as_tensor(data.targets)
    expected = torch.nn.functional.cross_entropy(2 * share.log().expand(38, 4), targets)
    torch.testing.assert_close(learner.loss(outputs, targets), expected)


def test_off_is_off(bank: TicketBank, make_data: MakeData) -> None:
    learner = TicketLearner(bank, TicketConfig(), total_steps=5, seed=0)
    balance_classes(learner, TrunkCache(bank, make_data(), 10**8))
    assert learner.task_loss == bank.task.loss


def test_a_rare_class_is_recalled_more_often(bank: TicketBank, make_data: MakeData) -> None:
    train, test = long_tail(make_data(count=192)), make_data(count=96, seed=1)
    recalls = []
    for weight in (0.0, 2.0):
        config = TicketConfig(epochs=6, batch_size=16, sparsity=0.5, class_balance=weight)
        ticket, _ = learn_ticket(bank, train, config, info=TicketInfo(f"w{weight}"), seed=0)
        grown = TicketBank(bank.backbone, bank.task)
        grown.append(ticket)
        labels = grown.predict(test.images, ticket_ids=0).labels.numpy()
        recalls.append(float((labels[test.targets == 2] == 2).mean()))
    assert recalls[1] > recalls[0]


def test_a_solved_head_is_balanced_too(bank: TicketBank, make_data: MakeData) -> None:
    train = long_tail(make_data(count=192))
    biases = []
    for weight in (0.0, 2.0):
        options = TicketConfig(
            epochs=1, head_finish="probe", class_balance=weight, sparsity=0.5, head_decay=10
        )
        ticket, _ = learn_ticket(bank, train, options, info=TicketInfo("t"), seed=0)
        biases.append(ticket.head["bias"] - ticket.head["bias"].mean())
    # With weights held near zero the bias is what frequencies are learned by: less of it is left.
    assert biases[1][2] > biases[0][2]
    assert biases[1][0] < biases[0][0]


@pytest.mark.parametrize("weight", [-0.1, 4.1])
def test_its_weight_is_bounded(weight: float) -> None:
    with pytest.raises(ValueError, match="class_balance"):
        TicketConfig(class_balance=weight)
