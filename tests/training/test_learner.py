from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rtl_continual.errors import DataError, PluginError
from rtl_continual.streams import ArraySet
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, TicketLearner, TrunkCache
from rtl_continual.training._learner import batch_norm_mode

MakeData = Callable[..., ArraySet]


@pytest.fixture
def cache(bank: TicketBank, make_data: MakeData) -> TrunkCache:
    return TrunkCache(bank, make_data(), 10**8)


def start(bank: TicketBank, cache: TrunkCache, steps: int = 10, **options: object) -> TicketLearner:
    config = TicketConfig(batch_size=16, **options)  # type: ignore[arg-type]
    return TicketLearner(bank, config, total_steps=steps, seed=0, features=cache.features)


def batch_of(cache: TrunkCache, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first = 16 * step % 96
    return cache.batch(torch.arange(first, first + 16))


def run(learner: TicketLearner, cache: TrunkCache, steps: int) -> list[float]:
    losses = []
    for step in range(steps):
        activation, features, targets = batch_of(cache, step)
        loss, outputs = learner.step(activation, targets, features)
        assert outputs.shape == (16, 4)
        losses.append(float(loss))
    return losses


def test_a_step_is_forward_loss_backward_update(bank: TicketBank, cache: TrunkCache) -> None:
    whole, parts = start(bank, cache), start(bank, cache)
    run(whole, cache, 10)
    for step in range(10):
        activation, features, targets = batch_of(cache, step)
        parts.optimizer.zero_grad()
        outputs = parts.forward(activation)
        parts.loss(outputs, targets, features).backward()
        parts.update()
    tickets = [x.finish(cache.features, TicketInfo("a"), seed=0) for x in (whole, parts)]
    assert tickets[0].fingerprint == tickets[1].fingerprint


def test_scores_norm_head_and_gate_are_learned_and_nothing_else(
    bank: TicketBank, cache: TrunkCache
) -> None:
    learner = start(bank, cache)
    assert learner.gate is not None
    groups = learner.parameter_groups()
    assert [group["lr"] for group in groups] == learner.rates(learner.config, gate=True)
    parameters = [p for group in groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    expected = bank.layout.total + 2 * sum(
        m.num_features for m in bank.backbone.body.modules() if isinstance(m, nn.BatchNorm2d)
    )
    expected += 16 * 4 + 4  # head
    assert sum(p.numel() for p in parameters) == expected + bank.backbone.router_feature_dim + 1
    identity = bank.backbone.compute_identity()
    run(learner, cache, 3)
    # The gate of a first ticket has nothing to tell apart and stays.
    for old, new in list(zip(before, parameters, strict=True))[:-2]:
        assert not torch.equal(old, new)
    assert bank.backbone.compute_identity() == identity
    assert len(bank) == 0


def test_running_statistics_are_the_tickets_own(bank: TicketBank, cache: TrunkCache) -> None:
    learner = start(bank, cache)
    shared = bank.backbone.body.state_dict()
    name = next(n for n in bank.norm_names if n.endswith("running_mean"))
    count = name.replace("running_mean", "num_batches_tracked")
    assert torch.equal(learner.norm[name], shared[name])
    run(learner, cache, 4)
    assert not torch.equal(learner.norm[name], shared[name])
    assert learner.norm[count] - shared[count] == 4
    settled = learner.norm[name].clone()
    learner.forward(batch_of(cache, 0)[0], training=False)
    assert torch.equal(learner.norm[name], settled)


def test_losses_fall(bank: TicketBank, cache: TrunkCache) -> None:
    losses = run(start(bank, cache, steps=30, sparsity=0.5, sparsity_weight=0.0), cache, 30)
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])


def test_the_mask_changes_every_few_steps_and_ends_at_the_target(
    bank: TicketBank, cache: TrunkCache
) -> None:
    learner = start(bank, cache, steps=10, binarise_every=4, sparsity=0.9, ramp=1.0)
    changed = []
    for step in range(10):
        before = learner.scores.mask()
        run(learner, cache, 1)
        if learner.scores.mask() != before:
            changed.append(step + 1)
    assert changed == [4, 8, 10]
    assert learner.scores.mask().kept == round(0.1 * bank.layout.total)


def test_stopped_early_it_still_reaches_its_target(bank: TicketBank, cache: TrunkCache) -> None:
    learner = start(bank, cache, steps=50, sparsity=0.9)
    run(learner, cache, 3)
    assert learner.scores.mask().sparsity < 0.9
    ticket = learner.finish(cache.features, TicketInfo("short"), seed=0)
    assert ticket.mask.kept == round(0.1 * bank.layout.total)


def test_a_scheduler_may_set_the_rates(bank: TicketBank, cache: TrunkCache) -> None:
    plain, steered = start(bank, cache), start(bank, cache)
    run(plain, cache, 4)
    run(steered, cache, 4)
    for group in steered.optimizer.param_groups:
        group["lr"] *= 0.25
    run(plain, cache, 3)
    run(steered, cache, 3)
    rates = [[g["lr"] for g in x.optimizer.param_groups] for x in (plain, steered)]
    assert rates[1] == pytest.approx([0.25 * rate for rate in rates[0]])
    assert rates[0][0] < plain.config.score_lr


def test_weights_of_the_losses(bank: TicketBank, cache: TrunkCache) -> None:
    activation, features, targets = batch_of(cache, 0)
    plain = start(bank, cache, gate_weight=0.0, sparsity_weight=0.0)
    assert plain.gate is None
    outputs = plain.forward(activation)
    task = plain.loss(outputs, targets, features)
    torch.testing.assert_close(task, nn.functional.cross_entropy(outputs, targets))
    sparse = start(bank, cache, gate_weight=0.0, sparsity_weight=3.0)
    extra = 3.0 * sparse.scores.scores.sigmoid().mean()
    torch.testing.assert_close(sparse.loss(outputs, targets, features), task + extra)
    gated = start(bank, cache, gate_weight=2.0, sparsity_weight=0.0)
    with torch.no_grad():
        gated.gate.loss = lambda features, group: features.sum()  # type: ignore[method-assign, union-attr]
    torch.testing.assert_close(gated.loss(outputs, targets, features), task + 2 * features.sum())
    torch.testing.assert_close(gated.loss(outputs, targets), task)


def test_a_bank_without_router_needs_no_gate(bank: TicketBank, cache: TrunkCache) -> None:
    bank.router = None
    learner = start(bank, cache)
    assert learner.gate is None
    run(learner, cache, 2)


def test_what_is_not_finite_is_named(bank: TicketBank, cache: TrunkCache) -> None:
    learner = start(bank, cache)
    run(learner, cache, 1)
    with torch.no_grad():
        learner.head.bias[0] = torch.nan
    with pytest.raises(DataError, match="ticket 'x' diverged: 'bias' is not finite"):
        learner.finish(cache.features, TicketInfo("x"), seed=0)


def test_only_norms_change_their_mode_and_it_is_put_back() -> None:
    body = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)).eval()
    with batch_norm_mode(body):
        assert [m.training for m in body] == [False, True, False]
    assert not any(m.training for m in body)
    with pytest.raises(KeyError), batch_norm_mode(body):
        raise KeyError
    assert not any(m.training for m in body)
    with batch_norm_mode(body, training=False):
        assert not any(m.training for m in body)


@pytest.mark.parametrize("value", [None, "0.5", float("nan"), 1.5, -0.1])
def test_a_schedule_that_gives_no_sparsity_is_named(bank: TicketBank, value: Any) -> None:
    learner = TicketLearner(bank, TicketConfig(), total_steps=5, seed=0)
    learner.schedule = SimpleNamespace(name="mine", sparsity=lambda *_, **__: value)  # type: ignore[assignment]
    with pytest.raises(
        PluginError, match=r"schedule 'mine' .* in 0\.\.1, got .* after step 0 of 5"
    ):
        _ = learner.sparsity


@pytest.mark.parametrize("value", [None, torch.zeros(3)])
def test_a_task_whose_loss_is_no_number_is_named(
    bank: TicketBank, make_data: MakeData, value: Any
) -> None:
    learner = TicketLearner(bank, TicketConfig(), total_steps=5, seed=0)
    learner.task_loss = lambda outputs, targets: value
    with pytest.raises(PluginError, match=r"Classification\.loss must give a tensor of one number"):
        learner.loss(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))
