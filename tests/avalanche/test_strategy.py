"""The strategy through the cases that Avalanche's own strategy tests use, and our promises."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

from rtl_continual.avalanche import RoutedTickets, TicketPlugin
from rtl_continual.backbones import Backbone, TrunkOutput
from rtl_continual.errors import RTLError
from rtl_continual.routing import FlatRouter, FlatRouterConfig
from rtl_continual.streams import Stream
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, commit_ticket, learn_ticket

Make = Callable[..., RoutedTickets]


def fingerprints(bank: TicketBank) -> list[str]:
    return [ticket.fingerprint for ticket in bank]


@pytest.fixture
def learned(stream: Stream, empty_bank: TicketBank, config: TicketConfig) -> TicketBank:
    """The same stream learned without Avalanche."""
    for experience in stream.experiences:
        info = TicketInfo(name=experience.name)
        commit_ticket(
            empty_bank, *learn_ticket(empty_bank, experience.train, config, info=info, seed=5)
        )
    return empty_bank


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, {}),
        ({"cache_trunk": True}, {}),
        ({"eval_every": 1}, {}),
        ({"eval_every": 2, "peval_mode": "iteration"}, {}),
        ({}, {"num_workers": 1, "persistent_workers": True, "prefetch_factor": 3}),
    ],
    ids=["plain", "cached trunk", "eval each epoch", "eval each other step", "worker"],
)
def test_same_tickets_as_without_avalanche(
    make: Make, benchmark_: Any, learned: TicketBank, options: Any, arguments: Any
) -> None:
    strategy = make(**options)
    strategy.train(benchmark_.train_stream, **arguments)
    assert fingerprints(strategy.bank) == fingerprints(learned)
    assert torch.equal(strategy.bank.router.weight, learned.router.weight)


def test_steps_run_the_trunk_as_the_bank_does(
    make: Make, benchmark_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, run, seen = make(), TicketBank.run_trunk, [0]
    forward = strategy.model.forward
    steps: list[int] = []

    def step(images: torch.Tensor) -> torch.Tensor:
        seen[0] = 0
        outputs = forward(images)
        steps.append(seen[0] - len(images))
        return outputs

    def spy(bank: TicketBank, images: torch.Tensor) -> TrunkOutput:
        seen[0] += len(images)
        return run(bank, images)

    monkeypatch.setattr(strategy.model, "forward", step)
    monkeypatch.setattr(TicketBank, "run_trunk", spy)
    strategy.train(benchmark_.train_stream[0])
    assert steps
    assert set(steps) == {0}


def test_another_seed_gives_other_tickets(make: Make, benchmark_: Any) -> None:
    tickets = []
    for seed in (5, 6):
        strategy = make(seed=seed)
        strategy.train(benchmark_.train_stream[0])
        tickets += fingerprints(strategy.bank)
    assert tickets[0] != tickets[1]


def test_one_ticket_per_experience_however_train_is_called(make: Make, benchmark_: Any) -> None:
    at_once, one_by_one = make(), make()
    at_once.train(benchmark_.train_stream)
    for experience in benchmark_.train_stream:
        one_by_one.train(experience)
    assert fingerprints(at_once.bank) == fingerprints(one_by_one.bank)
    assert at_once.bank.names == ("red", "green")
    ticket = at_once.bank[1]
    assert (ticket.info.cluster, ticket.info.samples) == ("green", 37)
    assert ticket.info.domain_counts == {"green": 37}
    assert ticket.mask.sparsity == pytest.approx(0.5, abs=1e-3)


def test_the_same_experience_again_is_a_second_ticket(make: Make, benchmark_: Any) -> None:
    strategy = make()
    for _ in range(3):
        strategy.train(benchmark_.train_stream[0])
    assert strategy.bank.names == ("red", "red-2", "red-3")
    assert [ticket.info.cluster for ticket in strategy.bank] == ["red"] * 3


def test_it_learns_and_routes(make: Make, benchmark_: Any) -> None:
    strategy = make(train_epochs=12)
    strategy.train(benchmark_.train_stream)
    for index, experience in enumerate(benchmark_.test_stream):
        images = torch.stack([experience.dataset[i][0] for i in range(20)])
        prediction = strategy.model.predict(images)
        assert (prediction.ticket_ids == index).all()
        right = prediction.labels == torch.tensor(list(experience.dataset.targets))
        assert right.float().mean() > 0.8
        assert torch.equal(strategy.model.eval()(images), strategy.bank.predict(images).outputs)


def test_backbone_and_earlier_tickets_never_change(
    make: Make, benchmark_: Any, backbone: Backbone
) -> None:
    before = backbone.compute_identity()
    strategy = make(eval_every=1)
    strategy.train(benchmark_.train_stream[0])
    first = strategy.bank[0].fingerprint
    strategy.train(benchmark_.train_stream[1])
    strategy.eval(benchmark_.test_stream)
    assert backbone.compute_identity() == before
    assert strategy.bank[0].fingerprint == first
    assert not any(p.requires_grad for p in backbone.parameters())


class Watch(TicketPlugin):
    """Runs one function in each step, between the gradients and the update."""

    def __init__(self, look: Callable[[Any], None]) -> None:
        super().__init__()
        self.look = look
        self.calls = 0

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.calls += 1
        self.look(strategy)


def test_the_optimizer_has_the_tickets_parameters_alone(
    make: Make, benchmark_: Any, backbone: Backbone
) -> None:
    # Avalanche's default would put every parameter of the model into it.
    frozen = {id(p) for p in backbone.parameters()}

    def look(strategy: Any) -> None:
        driven = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
        learner = strategy.learner
        wanted = [p for group in learner.parameter_groups() for p in group["params"]]
        assert driven == {id(p) for p in wanted}
        assert not driven & frozen
        trainable = {id(p) for p in strategy.model.parameters() if p.requires_grad}
        assert trainable == driven - {id(p) for p in learner.gate.parameters()}
        assert all(p.grad is not None for p in wanted)

    watch = Watch(look)
    strategy = make(plugins=[watch])
    optimizer = strategy.optimizer
    strategy.train(benchmark_.train_stream)
    # Three batches of 12, the last one of 13, in two epochs of two experiences.
    assert watch.calls == 12
    assert strategy.optimizer is optimizer
    assert not optimizer.state


def test_gradients_that_a_plugin_changes_count(make: Make, benchmark_: Any) -> None:
    def clip(strategy: Any) -> None:
        nn.utils.clip_grad_norm_(strategy.model.parameters(), 1e-12)

    tickets = []
    for plugins in ([], [Watch(clip)]):
        strategy = make(plugins=plugins)
        strategy.train(benchmark_.train_stream[0])
        tickets += fingerprints(strategy.bank)
    assert tickets[0] != tickets[1]


EVENTS = [
    f"{when}_{what}"
    for what in (
        "training",
        "train_dataset_adaptation",
        "training_exp",
        "training_epoch",
        "training_iteration",
        "forward",
        "backward",
        "update",
        "eval",
        "eval_dataset_adaptation",
        "eval_exp",
        "eval_iteration",
        "eval_forward",
        "ticket_added",
    )
    for when in ("before", "after")
    if f"{when}_{what}" != "before_ticket_added"
]


class Recorder(TicketPlugin):
    """Writes down every event and how many tickets there were."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []
        for event in EVENTS:
            setattr(self, event, self._record(event))

    def _record(self, event: str) -> Callable[..., None]:
        return lambda strategy, **kwargs: self.seen.append((event, len(strategy.bank)))


def test_plugins_see_every_event_in_order(make: Make, benchmark_: Any) -> None:
    recorder = Recorder()
    strategy = make(plugins=[recorder], train_epochs=1, train_mb_size=37, eval_every=0)
    strategy.train(benchmark_.train_stream[0], eval_streams=[])
    assert recorder.seen == [
        ("before_training", 0),
        ("before_train_dataset_adaptation", 0),
        ("after_train_dataset_adaptation", 0),
        ("before_training_exp", 0),
        ("before_training_epoch", 0),
        ("before_training_iteration", 0),
        ("before_forward", 0),
        ("after_forward", 0),
        ("before_backward", 0),
        ("after_backward", 0),
        ("before_update", 0),
        ("after_update", 0),
        ("after_training_iteration", 0),
        ("after_training_epoch", 0),
        ("after_ticket_added", 1),
        ("after_training_exp", 1),
        ("after_training", 1),
    ]
    recorder.seen.clear()
    strategy.eval(benchmark_.test_stream[:1])
    assert [event for event, _ in recorder.seen] == [
        "before_eval",
        "before_eval_dataset_adaptation",
        "after_eval_dataset_adaptation",
        "before_eval_exp",
        "before_eval_iteration",
        "before_eval_forward",
        "after_eval_forward",
        "after_eval_iteration",
        "after_eval_exp",
        "after_eval",
    ]


def test_the_final_periodic_evaluation_sees_the_committed_ticket(
    make: Make, benchmark_: Any
) -> None:
    class Count(TicketPlugin):
        def __init__(self) -> None:
            super().__init__()
            self.tickets: list[int] = []

        def after_eval(self, strategy: Any, **kwargs: Any) -> None:
            self.tickets.append(len(strategy.bank))

    count = Count()
    make(plugins=[count], eval_every=0).train(benchmark_.train_stream)
    # One evaluation before training, one after each of two experiences.
    assert count.tickets == [0, 1, 2]


def test_an_unfinished_ticket_takes_part_in_periodic_evaluation(
    make: Make, benchmark_: Any
) -> None:
    class Look(TicketPlugin):
        def __init__(self) -> None:
            super().__init__()
            self.routed: list[set[int]] = []
            self.outputs: list[torch.Tensor] = []

        def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
            if strategy.learner is not None:
                self.routed.append(set(strategy.mb_prediction.ticket_ids.tolist()))
                self.outputs.append(strategy.mb_output)
                assert set(range(len(strategy.bank) + 1)) >= self.routed[-1]

    look = Look()
    strategy = make(plugins=[look], eval_every=1)
    strategy.train(benchmark_.train_stream[0])
    look.routed.clear()
    look.outputs.clear()
    strategy.train(benchmark_.train_stream[1], eval_streams=[benchmark_.test_stream[1]])
    assert look.routed == [{1}, {1}]
    assert not torch.equal(look.outputs[0], look.outputs[1])


def test_evaluation_before_training(make: Make, benchmark_: Any) -> None:
    log = io.StringIO()
    evaluator = EvaluationPlugin(
        accuracy_metrics(stream=True), loss_metrics(stream=True), loggers=[TextLogger(log)]
    )
    strategy = make(evaluator=evaluator)
    results = strategy.eval(benchmark_.test_stream)
    assert len(strategy.bank) == 0
    # Equal outputs for all classes: the loss of a guess, and class 0 by the rule of argmax.
    assert results["Loss_Stream/eval_phase/test_stream"] == pytest.approx(math.log(4))
    assert results["Top1_Acc_Stream/eval_phase/test_stream"] == pytest.approx(0.25)
    assert (strategy.mb_prediction.ticket_ids == -1).all()


def test_evaluation_adds_nothing(make: Make, benchmark_: Any) -> None:
    # Avalanche calls the model's adaptation for every evaluation experience too.
    strategy = make()
    strategy.train(benchmark_.train_stream[0])
    before = fingerprints(strategy.bank), set(strategy.model.state_dict())
    strategy.eval(benchmark_.test_stream)
    assert (fingerprints(strategy.bank), set(strategy.model.state_dict())) == before
    assert strategy.learner is None


def test_eval_streams_may_be_any_sequence(make: Make, benchmark_: Any) -> None:
    # The templates write into the list they are given.
    strategy = make(eval_every=0)
    strategy.train(benchmark_.train_stream[0], eval_streams=(benchmark_.test_stream[0],))
    assert len(strategy.bank) == 1


def test_a_given_bank_goes_on(make: Make, benchmark_: Any, learned: TicketBank) -> None:
    first = make()
    first.train(benchmark_.train_stream[0])
    second = make(bank=first.bank)
    assert second.bank is first.bank
    second.train(benchmark_.train_stream[1])
    assert fingerprints(second.bank) == fingerprints(learned)


def test_a_router_learns_the_tickets_of_a_bank(make: Make, learned: TicketBank) -> None:
    learned.router = None
    assert make(bank=learned).bank.router.num_tickets == 2
    router = FlatRouter(FlatRouterConfig(abstain_below=0.9999999))
    assert make(bank=learned, router=router).bank.router is router
    assert router.num_tickets == 2
    changed = make(bank=learned, router_config=FlatRouterConfig(iterations=7)).bank.router
    assert isinstance(changed, FlatRouter)
    assert changed.config.iterations == 7


def test_where_the_router_abstains_all_classes_are_equal(make: Make, benchmark_: Any) -> None:
    strategy = make(router_config=FlatRouterConfig(abstain_below=0.999, weight_decay=10))
    strategy.train(benchmark_.train_stream)
    strategy.eval(benchmark_.test_stream[0])
    images = torch.rand(3, 3, 8, 8)
    outputs = strategy.model.eval()(images)
    abstained = strategy.model.prediction.ticket_ids < 0
    assert abstained.any()
    assert (outputs[abstained] == 0).all()


def test_own_criterion(make: Make, benchmark_: Any) -> None:
    calls: list[bool] = []

    def criterion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(outputs.requires_grad)
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.3)

    plain, own = make(), make(criterion=criterion)
    for strategy in (plain, own):
        strategy.train(benchmark_.train_stream[0])
    assert calls == [True] * 6
    assert fingerprints(plain.bank) != fingerprints(own.bank)


def test_a_deep_copy_of_the_model_stays_as_it_was(make: Make, benchmark_: Any) -> None:
    # Distillation plugins keep copies of the model.
    strategy = make()
    strategy.train(benchmark_.train_stream[0])
    old = copy.deepcopy(strategy.model).eval()
    images = torch.rand(5, 3, 8, 8)
    before = old(images)
    strategy.train(benchmark_.train_stream[1])
    assert torch.equal(old(images), before)
    assert (len(old.bank), len(strategy.bank)) == (1, 2)
    assert (before + torch.ones(1, requires_grad=True)).requires_grad


def test_outputs_may_be_used_under_autograd(make: Make, benchmark_: Any) -> None:
    strategy = make()
    strategy.train(benchmark_.train_stream[0])
    weight = torch.ones(4, requires_grad=True)
    (strategy.model.eval()(torch.rand(2, 3, 8, 8)) * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": None}, "give a backbone with num_classes, or a bank"),
        ({"num_classes": None}, "give a backbone with num_classes, or a bank"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"train_mb_size": 1}, "train_mb_size must be at least 2 for batch norm, got 1"),
        ({"train_epochs": 0}, "train_epochs must be at least 1, got 0"),
        ({"router": FlatRouter(), "router_config": FlatRouterConfig()}, "not both"),
        ({"router_config": TicketConfig()}, "unknown router config 'TicketConfig'"),
    ],
)
def test_arguments_that_do_not_fit(make: Make, options: Any, message: str) -> None:
    with pytest.raises(RTLError, match=message):
        make(**options)


def test_a_bank_comes_alone(make: Make, empty_bank: TicketBank) -> None:
    with pytest.raises(RTLError, match="give the bank alone"):
        make(bank=empty_bank, num_classes=4)
    with pytest.raises(RTLError, match="the bank is on cpu and the strategy on meta"):
        make(bank=empty_bank, device="meta")


def test_unknown_arguments_are_refused(make: Make) -> None:
    with pytest.raises(TypeError, match="sparcity"):
        make(sparcity=0.5)
