from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from rtl_continual.errors import DataError
from rtl_continual.streams import ArraySet
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import (
    JointConfig,
    TicketConfig,
    commit_ticket,
    learn_joint,
    learn_ticket,
)
from rtl_continual.training._joint import _Group

MakeData = Callable[..., ArraySet]

SIZES = (48, 32)


def learn(bank: TicketBank, make_data: MakeData, *, seed: int = 0, **options: object) -> TicketBank:
    defaults = {"sparsity": 0.8, "rounds": 2, "round_epochs": 1, "retrain_epochs": 2}
    config = JointConfig(**(defaults | {"batch_size": 16} | options))  # type: ignore[arg-type]
    groups = [make_data(domain, count) for domain, count in enumerate(SIZES)]
    infos = [TicketInfo(f"group-{i}", cluster=f"cluster-{i}") for i in range(2)]
    return learn_joint(bank, groups, config, infos=infos, seed=seed)


def flat_weights(bank: TicketBank) -> torch.Tensor:
    return bank.layout.flatten(dict(bank.backbone.body.named_parameters()))


@pytest.fixture
def joint(bank: TicketBank, make_data: MakeData) -> TicketBank:
    return learn(bank, make_data)


def test_a_ticket_for_each_group(joint: TicketBank, bank: TicketBank, make_data: MakeData) -> None:
    assert joint.names == ("group-0", "group-1")
    assert joint.router.num_tickets == 2
    assert bank.router.num_tickets == 0  # the given bank's router is left alone
    for ticket, size in zip(joint, SIZES, strict=True):
        assert ticket.mask.kept == round(0.2 * joint.layout.total)
        assert min(ticket.mask.counts.values()) >= 1
        assert ticket.info.sparsity_target == 0.8
        assert ticket.info.samples == size
        assert ticket.info.cluster == f"cluster-{ticket.id}"
        ids = joint.predict(make_data(ticket.id, 40, seed=1).images).ticket_ids
        assert (ids == ticket.id).float().mean() > 0.9
    assert joint[0].mask != joint[1].mask
    assert joint[0].info.similarity is None
    assert joint[1].info.similarity == joint[1].mask.jaccard(joint[0].mask)


def test_only_weights_inside_a_mask_have_moved(bank: TicketBank, make_data: MakeData) -> None:
    identity = bank.backbone.compute_identity()
    joint = learn(bank, make_data)
    assert bank.backbone.compute_identity() == identity
    assert len(bank) == 0
    assert joint.backbone.compute_identity() != identity
    before, after, used = flat_weights(bank), flat_weights(joint), joint.union_mask().to_flat()
    assert torch.equal(after[~used], before[~used])
    assert (after[used] != before[used]).float().mean() > 0.9
    trunk = joint.backbone.trunk.state_dict()
    for name, tensor in bank.backbone.trunk.state_dict().items():
        assert torch.equal(trunk[name], tensor)


def test_a_step_on_one_group_moves_only_its_own_weights(
    bank: TicketBank, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[_Group, torch.Tensor]] = []
    loss = _Group.loss

    def note(self: _Group, weights: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        seen.append((self, weights.detach().clone()))
        return loss(self, weights, index)

    monkeypatch.setattr(_Group, "loss", note)
    learn(bank, make_data, rounds=1)
    # One epoch of 3 and 2 steps finds the masks; then 2 epochs of the larger group, in turn.
    retraining = seen[5:]
    groups = [group for group, _ in retraining]
    assert groups == [groups[0], groups[1]] * 6
    assert groups[0] is not groups[1]
    for (group, before), (_, after) in itertools.pairwise(retraining):
        moved = before != after
        assert moved.any()
        assert not (moved & ~group.keep).any()


def test_seeds_decide_everything(bank: TicketBank, make_data: MakeData) -> None:
    first, second, other = (learn(bank, make_data, seed=seed) for seed in (0, 0, 1))
    assert [t.fingerprint for t in first] == [t.fingerprint for t in second]
    assert torch.equal(flat_weights(first), flat_weights(second))
    assert [t.fingerprint for t in first] != [t.fingerprint for t in other]


def test_groups_learn_their_data(bank: TicketBank, make_data: MakeData) -> None:
    joint = learn(bank, make_data, sparsity=0.5, retrain_epochs=8)
    for domain in range(2):
        data = make_data(domain, 40, seed=1)
        labels = joint.predict(data.images, ticket_ids=domain).labels.numpy()
        assert (labels == data.targets).mean() > 0.8


def test_a_bank_with_tickets_cannot_be_learned_jointly(
    bank: TicketBank, make_data: MakeData
) -> None:
    config = TicketConfig(epochs=1, batch_size=16)
    commit_ticket(bank, *learn_ticket(bank, make_data(0, 32), config, info=TicketInfo("a"), seed=0))
    with pytest.raises(DataError, match="starts from an empty bank"):
        learn(bank, make_data)


def test_groups_need_data(bank: TicketBank, make_data: MakeData) -> None:
    with pytest.raises(DataError, match="at least one group"):
        learn_joint(bank, [], JointConfig(), infos=[], seed=0)
    with pytest.raises(DataError, match="empty data set"):
        learn_joint(bank, [make_data().subset([])], JointConfig(), infos=[TicketInfo("a")], seed=0)


def test_joint_training_that_diverges_is_an_error(bank: TicketBank, make_data: MakeData) -> None:
    with pytest.raises(DataError, match="joint training diverged; lower lr, now 1e"):
        learn(bank, make_data, rounds=1, lr=1e30)
