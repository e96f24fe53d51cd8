"""The metrics' numbers, names, and what they do with other strategies."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from rtl_continual.avalanche import RoutedTickets, rtl_metrics
from rtl_continual.errors import RTLError
from rtl_continual.routing import FlatRouterConfig

Make = Callable[..., RoutedTickets]


def evaluator(**options: Any) -> EvaluationPlugin:
    return EvaluationPlugin(rtl_metrics(**options), loggers=[TextLogger(io.StringIO())])


class Fixed(nn.Module):
    """Answers with the label that is painted into the image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * nn.functional.one_hot(images[:, 0, 0, 0].long() % 4, 4).float()


def painted(targets: list[int], answers: list[int]) -> AvalancheDataset:
    images = torch.zeros(len(targets), 3, 8, 8)
    images[:, 0, 0, 0] = torch.tensor(answers).float()
    return AvalancheDataset(
        [list(zip(images, targets, strict=True))],
        data_attributes=[DataAttribute(targets, "targets")],
    )


def test_numbers_of_any_strategy(make: Make) -> None:
    # Recalls 1, 1/3 and 1/2; class 3 has no sample.
    uneven = painted([0, 1, 1, 1, 2, 2], [0, 1, 0, 2, 2, 3])
    right = painted([3, 3], [3, 3])
    benchmark = benchmark_from_datasets(train=[uneven], test=[uneven, right])
    benchmark.test_stream[0].domain = "sketch"
    plugin = evaluator(router_accuracy=False, ticket_count=False, recall_by_class=True)
    model = Fixed()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        eval_mb_size=4,
        evaluator=plugin,
    )
    results = strategy.eval(benchmark.test_stream)
    place = "eval_phase/test_stream"
    third = (1 + 1 / 3 + 1 / 2) / 3
    assert results == pytest.approx(
        {
            f"BalancedAccuracy/{place}/sketch": third,
            f"BalancedAccuracy/{place}/Exp001": 1.0,
            f"BalancedAccuracyMean/{place}": (third + 1) / 2,
            f"Recall/{place}/sketch": third,
            f"Recall/{place}/sketch/Class000": 1.0,
            f"Recall/{place}/sketch/Class001": 1 / 3,
            f"Recall/{place}/sketch/Class002": 1 / 2,
            f"Recall/{place}/Exp001": 1.0,
            f"Recall/{place}/Exp001/Class003": 1.0,
            f"RecallMean/{place}": (third + 1) / 2,
        }
    )
    # A second evaluation starts anew.
    assert strategy.eval(benchmark.test_stream) == pytest.approx(results)


def test_experiences_of_one_domain_count_together() -> None:
    benchmark = benchmark_from_datasets(
        train=[painted([0], [0])], test=[painted([0, 0, 0], [0, 0, 0]), painted([0], [1])]
    )
    for experience in benchmark.test_stream:
        experience.domain = "photo"
    model = Fixed()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        evaluator=evaluator(router_accuracy=False, ticket_count=False),
    )
    results = strategy.eval(benchmark.test_stream)
    assert results["BalancedAccuracyMean/eval_phase/test_stream"] == 0.75


def test_routing_numbers(make: Make, benchmark_: Any) -> None:
    plugin = evaluator()
    strategy = make(evaluator=plugin, train_epochs=12)
    place = "eval_phase/test_stream"
    strategy.train(benchmark_.train_stream[0])
    results = strategy.eval(benchmark_.test_stream)
    assert results["TicketCount"] == 1
    assert results[f"RouterAccuracy/{place}/red"] == 1.0
    # No ticket was trained on green, so none would be right.
    assert f"RouterAccuracy/{place}/green" not in results
    strategy.train(benchmark_.train_stream[1])
    results = strategy.eval(benchmark_.test_stream)
    assert results["TicketCount"] == 2
    router = strategy.bank.router
    router.weight = router.weight.flip(0)
    router.bias = router.bias.flip(0)
    results = strategy.eval(benchmark_.test_stream)
    assert results[f"RouterAccuracy/{place}/green"] == 0.0
    assert results[f"RouterAccuracyMean/{place}"] == 0.0
    assert plugin.get_all_metrics()["TicketCount"][1] == [1, 2]
    # Values stand where training was when they were measured: 12 epochs of 3 steps.
    assert plugin.get_all_metrics()[f"BalancedAccuracyMean/{place}"][0] == [36, 72, 72]


def test_balanced_accuracy_is_that_of_the_bank(make: Make, benchmark_: Any) -> None:
    strategy = make(evaluator=evaluator(), train_epochs=4)
    strategy.train(benchmark_.train_stream)
    results = strategy.eval(benchmark_.test_stream)
    for experience in benchmark_.test_stream:
        images = torch.stack([experience.dataset[i][0] for i in range(20)])
        labels = strategy.bank.predict(images).labels.numpy()
        targets = np.array(list(experience.dataset.targets))
        recalls = [float((labels[targets == c] == c).mean()) for c in range(4)]
        key = f"BalancedAccuracy/eval_phase/test_stream/{experience.domain}"
        assert results[key] == pytest.approx(np.mean(recalls))


def test_abstaining_is_wrong(make: Make, benchmark_: Any) -> None:
    router_config = FlatRouterConfig(abstain_below=1.0, weight_decay=10)
    strategy = make(evaluator=evaluator(), router_config=router_config)
    strategy.train(benchmark_.train_stream)
    results = strategy.eval(benchmark_.test_stream)
    assert (strategy.mb_prediction.ticket_ids == -1).all()
    # The outputs are equal for all classes, and argmax would call that class 0.
    assert results["BalancedAccuracyMean/eval_phase/test_stream"] == 0.0
    assert results["RouterAccuracyMean/eval_phase/test_stream"] == 0.0


def test_nothing_is_counted_without_tickets(make: Make, benchmark_: Any) -> None:
    results = make(evaluator=evaluator()).eval(benchmark_.test_stream)
    assert results["BalancedAccuracyMean/eval_phase/test_stream"] == 0.0
    assert not [name for name in results if name.startswith("RouterAccuracy")]


def test_a_domain_learned_twice_has_two_right_tickets(make: Make, benchmark_: Any) -> None:
    strategy = make(evaluator=evaluator())
    for _ in range(2):
        strategy.train(benchmark_.train_stream[0])
    results = strategy.eval(benchmark_.test_stream[:1])
    assert results["RouterAccuracyMean/eval_phase/test_stream"] == 1.0


def test_unnamed_experiences_have_no_router_accuracy(make: Make, benchmark_: Any) -> None:
    strategy = make(evaluator=evaluator())
    strategy.train(benchmark_.train_stream)
    unnamed = benchmark_from_datasets(test=[e.dataset for e in benchmark_.test_stream])
    results = strategy.eval(unnamed.test_stream)
    assert "BalancedAccuracy/eval_phase/test_stream/Exp001" in results
    assert not [name for name in results if name.startswith("RouterAccuracy")]


def test_router_accuracy_of_a_strategy_that_does_not_route(benchmark_: Any) -> None:
    model = Fixed()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        evaluator=evaluator(balanced_accuracy=False, recall=False, ticket_count=False),
    )
    with pytest.raises(RTLError, match="RouterAccuracy measures strategies that route, not Naive"):
        strategy.eval(benchmark_.test_stream)
