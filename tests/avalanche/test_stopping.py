"""What interrupts training or steers it: stops, schedulers, replaced loaders, failures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.logging import TextLogger
from avalanche.training.plugins import (
    EarlyStoppingPlugin,
    EvaluationPlugin,
    LRSchedulerPlugin,
    ReplayPlugin,
)
from torch.optim.lr_scheduler import LambdaLR, MultiplicativeLR, ReduceLROnPlateau

from rtl_continual.avalanche import RoutedTickets
from rtl_continual.errors import DataError
from rtl_continual.training import TicketConfig

Make = Callable[..., RoutedTickets]


class Call(SupervisedPlugin):
    """Calls a function on one event."""

    def __init__(self, event: str, function: Callable[[Any], None]) -> None:
        super().__init__()
        setattr(self, event, lambda strategy, **kwargs: function(strategy))


class Scripted(PluginMetric[float]):
    """Claims what the test wants."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values

    def reset(self) -> None: ...

    def result(self) -> float:
        return self.values[0]

    def after_eval(self, strategy: Any) -> MetricValue:
        value = self.values.pop(0)
        return MetricValue(self, "Claim/eval_phase/valid_stream", value, 0)


@pytest.mark.filterwarnings("ignore:Metric Claim used by the EarlyStopping")
def test_early_stopping_restores_the_best_and_ends_at_the_target(
    make: Make, benchmark_: Any
) -> None:
    heads: list[torch.Tensor] = []
    watch = Call(
        "after_training_epoch",
        lambda strategy: heads.append(strategy.learner.head.weight.detach().clone()),
    )
    claims = Scripted([0.1, 0.3, 0.9, 0.4, 0.2, 0.1, 0.1])
    strategy = make(
        plugins=[EarlyStoppingPlugin(2, "valid_stream", metric_name="Claim"), watch],
        evaluator=EvaluationPlugin(claims, loggers=[TextLogger(io.StringIO())]),
        train_epochs=9,
        eval_every=1,
    )
    strategy.train(benchmark_.train_stream[0], eval_streams=[benchmark_.valid_stream])
    # Best after the second epoch, stopped two epochs later; one evaluation before training.
    assert len(heads) == 4
    ticket = strategy.bank[0]
    assert torch.equal(ticket.head["weight"], heads[1])
    assert ticket.mask.sparsity == pytest.approx(0.5, abs=1e-3)


def test_a_ticket_stopped_at_once_has_its_target_all_the_same(make: Make, benchmark_: Any) -> None:
    stop = Call("after_training_iteration", lambda strategy: strategy.stop_training())
    strategy = make(plugins=[stop], config=TicketConfig(sparsity=0.9, epochs=4, batch_size=12))
    strategy.train(benchmark_.train_stream[0])
    assert strategy.bank[0].mask.sparsity == pytest.approx(0.9, abs=2e-3)


def test_a_stop_in_the_last_epoch_does_not_reach_the_next_experience(
    make: Make, benchmark_: Any
) -> None:
    # Avalanche leaves the request standing, and its next experience would end before it began.
    steps: list[int] = []

    def stop(strategy: Any) -> None:
        steps.append(strategy.learner.steps_done)
        strategy.stop_training()

    strategy = make(plugins=[Call("after_training_epoch", stop)], train_epochs=1)
    strategy.train(benchmark_.train_stream)
    assert steps == [3, 3]


def scheduled(
    make: Make, benchmark_: Any, scheduler: Callable[[Any], Any], **options: Any
) -> list[list[float]]:
    """The rate of the scores in each step of each experience."""
    rates: list[list[float]] = []
    record = Call("after_update", lambda s: rates[-1].append(s.optimizer.param_groups[0]["lr"]))
    begin = Call("before_training_exp", lambda s: rates.append([]))
    strategy = make(plugins=[record, begin], train_epochs=3)
    strategy.plugins.insert(0, LRSchedulerPlugin(scheduler(strategy.optimizer), **options))
    strategy.train(benchmark_.train_stream)
    return rates


def test_schedulers_stay_attached(make: Make, benchmark_: Any) -> None:
    plain = scheduled(make, benchmark_, lambda o: MultiplicativeLR(o, lambda _: 1.0))
    assert plain[0] == plain[1]
    assert plain[0] == sorted(plain[0], reverse=True)
    halved = scheduled(make, benchmark_, lambda o: MultiplicativeLR(o, lambda _: 0.5))
    for experience in halved:
        # One epoch at the full rate, one at half of it, one at a quarter.
        shares = [a / b for a, b in zip(experience, plain[0], strict=True)]
        assert shares == pytest.approx([1.0] * 3 + [0.5] * 3 + [0.25] * 3)


def test_a_scheduler_that_sets_rates_has_its_way(make: Make, benchmark_: Any) -> None:
    config = TicketConfig()
    rates = scheduled(
        make,
        benchmark_,
        lambda o: LambdaLR(o, lambda step: 1 / (1 + step)),
        step_granularity="iteration",
    )
    # The ticket's own decay goes on from what the scheduler set, by one step.
    assert rates[0][1] < config.score_lr / 2
    assert rates[0][1] == pytest.approx(config.score_lr / 2, rel=0.05)


# Avalanche's plugin turns a loss into a number without detaching it.
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_a_scheduler_that_watches_the_loss(make: Make, benchmark_: Any) -> None:
    rates = scheduled(
        make,
        benchmark_,
        lambda o: ReduceLROnPlateau(o, factor=0.1, patience=0, threshold=1e9, mode="max"),
        metric="train_loss",
    )
    assert rates[0][-1] < 0.2 * rates[0][0]


def test_a_plugin_may_replace_the_loader(make: Make, benchmark_: Any) -> None:
    planned: list[tuple[int, int]] = []
    watch = Call(
        "after_training_epoch",
        lambda s: planned.append((s.learner.steps_done, s.learner.total_steps)),
    )
    replay = ReplayPlugin(mem_size=10, batch_size=6, batch_size_mem=6)
    strategy = make(plugins=[replay, watch], train_epochs=1)
    # Avalanche's own plugin calls what Avalanche deprecates.
    with warnings.catch_warnings(record=True):
        strategy.train(benchmark_.train_stream)
    assert planned == [(3, 3), (7, 7)]


def test_a_failure_leaves_no_half_ticket(make: Make, benchmark_: Any) -> None:
    def fail(strategy: Any) -> None:
        raise RuntimeError("out of memory")

    failing = Call("after_training_epoch", fail)
    strategy = make(plugins=[failing])
    with pytest.raises(RuntimeError, match="out of memory"):
        strategy.train(benchmark_.train_stream)
    assert len(strategy.bank) == 0
    assert strategy.learner is None
    strategy.eval(benchmark_.test_stream)
    strategy.plugins.remove(failing)
    strategy.train(benchmark_.train_stream)
    assert len(strategy.bank) == 2


def test_divergence_is_one_clear_message(make: Make, benchmark_: Any) -> None:
    config = TicketConfig(epochs=2, batch_size=12, head_lr=1e30, norm_lr=1e30)
    with pytest.raises(DataError, match="ticket 'red' diverged"):
        make(config=config).train(benchmark_.train_stream[0])
