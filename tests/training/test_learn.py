from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from rtl_continual.backbones import Backbone
from rtl_continual.errors import DataError
from rtl_continual.routing import FlatRouter
from rtl_continual.streams import ArraySet
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Ticket, TicketBank, TicketInfo
from rtl_continual.training import (
    TicketConfig,
    TicketLearner,
    TrunkCache,
    choose_parent,
    choose_start,
    commit_ticket,
    learn_ticket,
    start_head,
)

MakeData = Callable[..., ArraySet]


def learn(
    bank: TicketBank, data: ArraySet, *, seed: int = 0, name: str = "", **options: object
) -> tuple[Ticket, TicketLearner]:
    config = TicketConfig(**({"epochs": 2, "batch_size": 16, "sparsity": 0.8} | options))  # type: ignore[arg-type]
    info = TicketInfo(name or f"ticket-{len(bank)}")
    return learn_ticket(bank, data, config, info=info, seed=seed)


def grow(bank: TicketBank, data: ArraySet, **options: object) -> Ticket:
    ticket, learner = learn(bank, data, **options)  # type: ignore[arg-type]
    commit_ticket(bank, ticket, learner)
    return ticket


@pytest.fixture
def relabelled(make_data: MakeData) -> Callable[[int], ArraySet]:
    """The same images in every domain, but each domain names their classes in its own way."""

    def make(domain: int, seed: int = 0) -> ArraySet:
        data = make_data(0, seed=seed)
        return ArraySet(data.images, (data.targets + domain) % 4, domain)

    return make


def test_seeds_decide_everything(bank: TicketBank, make_data: MakeData) -> None:
    data = make_data()
    torch.manual_seed(1)
    first = learn(bank, data)[0]
    torch.manual_seed(2)
    assert learn(bank, data)[0].fingerprint == first.fingerprint
    assert learn(bank, data, seed=1)[0].fingerprint != first.fingerprint


def test_dropout_in_a_body_does_not_make_tickets_random(
    dropout_bank: TicketBank, make_data: MakeData
) -> None:
    torch.manual_seed(1)
    first = learn(dropout_bank, make_data())[0]
    torch.manual_seed(2)
    assert learn(dropout_bank, make_data())[0].fingerprint == first.fingerprint
    assert set(first.norm) == {"1.weight", "1.bias"}


def test_the_global_random_state_is_left_alone(bank: TicketBank, make_data: MakeData) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    grow(bank, make_data())
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before[1])  # noqa: NPY002


def test_learning_changes_neither_backbone_nor_bank(bank: TicketBank, make_data: MakeData) -> None:
    first = grow(bank, make_data(0))
    identity, print_before = bank.backbone.compute_identity(), first.fingerprint
    answer = bank.predict(make_data(0).images)
    learn(bank, make_data(1))
    assert bank.backbone.compute_identity() == identity
    assert not any(m.training for m in bank.backbone.modules())
    assert len(bank) == bank.router.num_tickets == 1
    assert bank[0].fingerprint == print_before
    assert torch.equal(bank.predict(make_data(0).images).outputs, answer.outputs)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("start", ["cold", "nearest", "core"])
def test_the_budget_is_reached_exactly(
    bank: TicketBank, make_data: MakeData, sparsity: float, start: str
) -> None:
    if start != "cold":
        grow(bank, make_data(0, 32), epochs=1)
    # 2 epochs of 5 steps: not a multiple of the steps between two masks.
    ticket, _ = learn(bank, make_data(1, 80), sparsity=sparsity, start=start, binarise_every=4)
    assert ticket.mask.kept == round((1 - sparsity) * bank.layout.total)
    assert ticket.info.sparsity_target == sparsity
    assert ticket.info.samples == 80


def test_each_layer_keeps_its_floor(bank: TicketBank, make_data: MakeData) -> None:
    ticket, _ = learn(bank, make_data(), sparsity=0.95, layer_floor=0.6)
    for name, size in bank.layout.sizes.items():
        assert ticket.mask.counts[name] >= max(1, int(0.6 * 0.05 * size))
    loose, _ = learn(bank, make_data(), sparsity=0.95, layer_floor=0.0, score_lr=0.3)
    assert min(loose.mask.counts.values()) >= 1


def test_a_ticket_learns_its_data(bank: TicketBank, make_data: MakeData) -> None:
    grow(bank, make_data(), epochs=5, sparsity=0.7)
    data = make_data(seed=1)
    labels = bank.predict(data.images).labels.numpy()
    assert (labels == data.targets).mean() > 0.9


def test_epochs_are_told(bank: TicketBank, make_data: MakeData) -> None:
    told: list[dict[str, float]] = []
    config = TicketConfig(epochs=4, batch_size=16, sparsity=0.8)
    learn_ticket(bank, make_data(), config, info=TicketInfo("a"), seed=0, on_epoch=told.append)
    assert [event["epoch"] for event in told] == [0, 1, 2, 3]
    sparsities = [event["sparsity"] for event in told]
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] == 0.8
    assert told[-1]["loss"] < told[0]["loss"]


def test_the_first_ticket_has_no_parent(bank: TicketBank, make_data: MakeData) -> None:
    ticket, learner = learn(bank, make_data())
    assert ticket.info.parent is None
    assert ticket.info.similarity is None
    assert learner.parent is None


def test_a_warm_ticket_starts_from_its_parent(bank: TicketBank, make_data: MakeData) -> None:
    parent = grow(bank, make_data(0))
    cache = TrunkCache(bank, make_data(1), 10**8)
    options = TicketConfig(sparsity=0.8, start="nearest", start_strength=0.9, start_gap=0.0)
    warm = TicketLearner(bank, options, total_steps=10, seed=3, parent=parent)
    cold = TicketLearner(bank, options, total_steps=10, seed=3)
    for name, tensor in parent.head.items():
        assert torch.equal(warm.head.state_dict()[name], tensor)
    assert all(torch.equal(warm.norm[name], tensor) for name, tensor in parent.norm.items())
    assert not torch.equal(cold.head.weight, parent.head["weight"])
    cold.scores.binarise(0.8)
    assert warm.scores.mask().kept == parent.mask.kept
    overlap = warm.scores.mask().jaccard(parent.mask)
    assert overlap > 0.9
    assert overlap > cold.scores.mask().jaccard(parent.mask)
    warm.step(*(cache.batch(torch.arange(16))[i] for i in (0, 2)))
    assert bank[0].fingerprint == parent.fingerprint


def test_a_gap_lets_a_warm_ticket_begin_denser(bank: TicketBank, make_data: MakeData) -> None:
    parent = grow(bank, make_data(0, 32), epochs=1)
    for gap, expected in ((0.25, 0.55), (0.9, 0.0)):
        options = TicketConfig(sparsity=0.8, start_gap=gap)
        learner = TicketLearner(bank, options, total_steps=10, seed=0, parent=parent)
        assert learner.scores.mask().sparsity == pytest.approx(expected, abs=1e-3)


def test_the_parent_is_the_ticket_that_fits_best(
    bank: TicketBank, relabelled: Callable[..., ArraySet]
) -> None:
    assert choose_parent(bank, TrunkCache(bank, relabelled(0), 10**8)) is None
    for domain in range(3):
        grow(bank, relabelled(domain), start="cold", epochs=4)
    for domain in (2, 0, 1):
        cache = TrunkCache(bank, relabelled(domain, seed=1), 10**8)
        assert choose_parent(bank, cache) is bank[domain]
        assert choose_parent(bank, cache, limit=20) is bank[domain]
    ticket, _ = learn(bank, relabelled(1, seed=1), start="nearest")
    assert ticket.info.parent == 1
    ticket, _ = learn(bank, relabelled(1, seed=1), start="core")
    assert ticket.info.parent == 1
    ticket, _ = learn(bank, relabelled(1, seed=1), start="cold")
    assert ticket.info.parent is None


def test_a_warm_start_must_win_its_trial(
    bank: TicketBank, relabelled: Callable[..., ArraySet]
) -> None:
    options = TicketConfig(sparsity=0.8, epochs=6, batch_size=16, start_trial=0.34)
    cache = TrunkCache(bank, relabelled(0), 10**8)
    assert choose_start(bank, cache, options, seed=0) is None
    grow(bank, relabelled(0), epochs=6)
    before = bank[0].fingerprint
    assert choose_start(bank, cache, options, seed=0) is bank[0]
    assert choose_start(bank, cache, options.model_copy(update={"start": "cold"}), seed=0) is None
    # Its head calls every class by another name: a burden over the two epochs of a trial.
    other = TrunkCache(bank, relabelled(1, seed=1), 10**8)
    assert choose_start(bank, other, options, seed=0) is None
    untried = options.model_copy(update={"start_trial": 0.0})
    assert choose_start(bank, other, untried, seed=0) is bank[0]
    assert bank[0].fingerprint == before
    ticket, _ = learn(bank, relabelled(1, seed=1), epochs=6, start_trial=0.34)
    assert ticket.info.parent is None


def test_similarity_is_to_the_tickets_that_were_there(
    bank: TicketBank, make_data: MakeData
) -> None:
    tickets = [grow(bank, make_data(domain, 32), epochs=1) for domain in range(3)]
    assert tickets[1].info.similarity == tickets[1].mask.jaccard(tickets[0].mask)
    expected = np.mean([tickets[2].mask.jaccard(tickets[i].mask) for i in (0, 1)])
    assert tickets[2].info.similarity == pytest.approx(expected)


def test_tickets_and_router_grow_together(bank: TicketBank, make_data: MakeData) -> None:
    for domain in range(3):
        ticket, learner = learn(bank, make_data(domain, 64), epochs=1)
        assert learner.gate is not None
        # With or without a jointly trained gate.
        commit_ticket(bank, ticket, learner if domain != 1 else None)
    assert len(bank) == bank.router.num_tickets == 3
    for domain in range(3):
        ids = bank.predict(make_data(domain, 64, seed=1).images).ticket_ids
        assert (ids == domain).float().mean() > 0.9


@pytest.mark.parametrize("with_learner", [True, False])
def test_a_router_that_fails_leaves_the_bank_as_it_was(
    bank: TicketBank, make_data: MakeData, monkeypatch: pytest.MonkeyPatch, with_learner: bool
) -> None:
    grow(bank, make_data(0))
    router = bank.router
    assert isinstance(router, FlatRouter)
    before = {name: t.clone() for name, t in router.state_dict().items()}
    ticket, learner = learn(bank, make_data(1))

    def fail(self: FlatRouter, start: object) -> None:
        self.bias = torch.zeros(99)
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(FlatRouter, "_solve", fail)
        with pytest.raises(RuntimeError, match="no memory left"):
            commit_ticket(bank, ticket, learner if with_learner else None)
    assert (len(bank), bank.router) == (1, router)
    assert {n: t.tolist() for n, t in router.state_dict().items()} == {
        n: t.tolist() for n, t in before.items()
    }
    commit_ticket(bank, ticket, learner)
    assert (len(bank), bank.router.num_tickets) == (2, 2)


def test_a_bank_without_router_only_keeps_the_ticket(bank: TicketBank, make_data: MakeData) -> None:
    bank.router = None
    grow(bank, make_data(0, 32), epochs=1)
    assert bank.names == ("ticket-0",)


@pytest.mark.parametrize("count", [33, 2, 1])
def test_a_lone_last_sample_is_learned_too(
    bank: TicketBank, make_data: MakeData, count: int
) -> None:
    ticket, learner = learn(bank, make_data(0, count))
    assert ticket.info.samples == count
    assert learner.steps_done == learner.total_steps == (4 if count == 33 else 2)


@pytest.mark.parametrize("start", ["cold", "nearest"])
def test_a_data_set_too_large_to_keep_gives_the_same_ticket(
    bank: TicketBank, make_data: MakeData, start: str
) -> None:
    grow(bank, make_data(0, 32), epochs=1)
    kept, _ = learn(bank, make_data(1), start=start)
    again, _ = learn(bank, make_data(1), start=start, cache_bytes=0)
    assert kept.fingerprint == again.fingerprint


def test_the_cache_keeps_activations_up_to_its_budget(
    bank: TicketBank, make_data: MakeData
) -> None:
    data = make_data(count=20)
    activation, features = bank.backbone.run_trunk(data.images)
    size = activation.numel() * activation.element_size()
    for budget, kept in ((size, True), (size - 1, False)):
        cache = TrunkCache(bank, data, budget)
        assert (cache.activations is not None) is kept
        index = torch.tensor([7, 3, 11])
        found = cache.batch(index)
        torch.testing.assert_close(found[0], activation[index])
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found[1], features[index])
        assert found[2].tolist() == data.targets[index].tolist()


def test_bad_data_is_refused(bank: TicketBank, make_data: MakeData) -> None:
    data = make_data(count=20)
    with pytest.raises(DataError, match="empty data set"):
        learn(bank, data.subset([]))
    with pytest.raises(DataError, match="labels must be 0 to 3, got 4 for sample 19"):
        learn(bank, ArraySet(data.images, data.targets + np.eye(20, dtype=int)[19], 0))
    with pytest.raises(DataError, match=r"images must be \[batch, 3, 32, 32\]"):
        learn(bank, ArraySet(data.images[:, :, :16, :16], data.targets, 0))


def test_training_that_diverges_is_an_error(bank: TicketBank, make_data: MakeData) -> None:
    with pytest.raises(DataError, match=r"'ticket-0' diverged: .* lower the rates"):
        learn(bank, make_data(), norm_lr=1e30, head_lr=1e30)
    assert not any(m.training for m in bank.backbone.modules())


class _Tokens(nn.Module):
    """``[batch, channels, height, width]`` to ``[batch, tokens, channels]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).transpose(1, 2)


class _FirstToken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


@pytest.mark.parametrize("kind", ["no norm", "transformer"])
def test_any_body_can_be_learned(make_data: MakeData, kind: str) -> None:
    trunk: list[nn.Module] = [nn.Conv2d(3, 8, 8, stride=8)]
    if kind == "no norm":
        body = nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten())
    else:
        trunk.append(_Tokens())
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        body = nn.Sequential(layer, _FirstToken())
    width = 24 if kind == "no norm" else 8
    backbone = Backbone("own", nn.Sequential(*trunk), body, feature_dim=width)
    bank = TicketBank(backbone, Classification(4), FlatRouter())
    for domain in range(2):
        ticket = grow(bank, make_data(domain, 32), epochs=1, name=f"{kind} {domain}")
        assert ticket.mask.kept == round(0.2 * bank.layout.total)
    answer = bank.predict(make_data(1).images)
    assert answer.outputs.isfinite().all()
    assert (answer.ticket_ids == 1).float().mean() > 0.9


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_fixed_norm_statistics_lie_between_the_backbones_and_the_datas(
    share: float, bank: TicketBank, make_data: MakeData
) -> None:
    data = make_data(1)
    config = TicketConfig(sparsity=0.5, norm_statistics="fixed", norm_share=share)
    cache = TrunkCache(bank, data, 2**20)
    learner = TicketLearner(bank, config, total_steps=10, seed=0)
    # Fewer samples than a chunk: the data's are those of all of them at once.
    activation, _, targets = cache.batch(torch.arange(len(data)))
    measured = learner.batch_statistics(activation)
    start_head(learner, cache)
    for _ in range(3):
        learner.step(activation, targets)
    state = bank.backbone.body.state_dict()
    running = [name for name in state if "running" in name]
    assert set(measured) == set(running) != set()
    for name in running:
        wanted = (1 - share) * state[name] + share * measured[name]
        torch.testing.assert_close(learner.norm[name], wanted)
        assert not torch.equal(measured[name], state[name])
    affine = [name for name in learner.norm if isinstance(learner.norm[name], nn.Parameter)]
    assert affine
    assert not any(torch.equal(learner.norm[name], state[name]) for name in affine)
    # In training, as when it is served, a sample's features do not depend on its batch.
    alone = learner.represent(activation[:1], training=True)
    torch.testing.assert_close(learner.represent(activation, training=True)[:1], alone)


def test_own_norm_statistics_follow_the_batches(bank: TicketBank, make_data: MakeData) -> None:
    ticket = grow(bank, make_data(0))
    state = bank.backbone.body.state_dict()
    running = [name for name in ticket.norm if "running" in name]
    assert not any(torch.equal(ticket.norm[name], state[name]) for name in running)


def test_taking_statistics_changes_nothing(bank: TicketBank, make_data: MakeData) -> None:
    data = make_data(1)
    _, learner = learn(bank, data)
    before = {name: value.clone() for name, value in learner.norm.items()}
    activation, _, _ = TrunkCache(bank, data, 2**20).batch(torch.arange(8))
    momenta = [m.momentum for m in learner._body.module.modules() if hasattr(m, "momentum")]
    learner.batch_statistics(activation)
    assert all(torch.equal(learner.norm[name], value) for name, value in before.items())
    after = [m.momentum for m in learner._body.module.modules() if hasattr(m, "momentum")]
    assert after == momenta != []
