"""The methods built on tickets, on a stream of two colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rtl_continual.backbones import backbone_flops, build_backbone, statistics_flops
from rtl_continual.routing import FlatRouterConfig
from rtl_continual.runs import MethodConfig, RunContext
from rtl_continual.runs.methods import method_class
from rtl_continual.runs.methods._tickets import answer
from rtl_continual.store import load_bank
from rtl_continual.streams import ArraySet, Experience, Stream
from rtl_continual.tasks import balanced_accuracy, confusion_matrix
from rtl_continual.training import TicketConfig

MakeContext = Callable[[], RunContext]

DOMAINS = ("red", "green")


def make_set(domain: int, count: int, seed: int) -> ArraySet:
    generator = np.random.default_rng([seed, domain])
    images = generator.integers(0, 60, (count, 3, 32, 32))
    targets = np.arange(count) % 3
    for image, target in zip(images, targets, strict=True):
        image[:, 10 * target : 10 * target + 10] += 100
    images[:, domain] += 80
    return ArraySet(images.astype(np.uint8), targets, domain)


@pytest.fixture
def events() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def context(events: list[tuple[str, dict[str, Any]]]) -> RunContext:
    experiences = tuple(
        Experience(name, make_set(i, 48, 0), make_set(i, 6, 1)) for i, name in enumerate(DOMAINS)
    )
    tests = {name: make_set(i, 30 + 6 * i, 2) for i, name in enumerate(DOMAINS)}
    return RunContext(
        stream=Stream("colours", ("a", "b", "c"), DOMAINS, experiences, tests, "fingerprint"),
        make_backbone=lambda: build_backbone("glyphnet", weights="random:0", width=4),
        epochs=2,
        batch_size=16,
        seed=0,
        sections={
            "tickets": TicketConfig(sparsity=0.75),
            "router": FlatRouterConfig(),
            "growth": "per_experience",
        },
        emit=lambda event, **facts: events.append((event, facts)),
        advance=lambda message: None,
    )


def test_rtl_grows_one_ticket_for_each_experience(
    context: RunContext, events: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    method: Any = method_class("rtl")(context, MethodConfig())
    tests = context.stream.tests
    method.learn(0)
    alone = answer(method.bank, tests["red"], ticket_id=0)
    method.learn(1)
    assert [event for event, _ in events] == ["ticket_added", "ticket_added"]
    assert [facts["ticket"] for _, facts in events] == [0, 1]
    assert events[1][1]["sparsity"] == pytest.approx(0.75, abs=1e-3)
    assert method.bank.names == DOMAINS
    assert method.bank[1].info.domain_counts == {"green": 48}
    # The first ticket answers as it did.
    assert np.array_equal(answer(method.bank, tests["red"], ticket_id=0).labels, alone.labels)
    answers = method.predict(tests["green"])
    assert answers.labels.shape == answers.ticket_ids.shape == answers.confidence.shape == (36,)

    method.finish_evaluation(tests)
    details = method.details()
    ids = [method.predict(images).ticket_ids for images in tests.values()]
    confusion = [[int((found == ticket).sum()) for ticket in range(2)] for found in ids]
    assert details["router"]["confusion"] == confusion
    assert details["router"]["accuracy"] == (confusion[0][0] + confusion[1][1]) / 66
    assert details["router"]["abstained"] == 0
    flops = backbone_flops(method.bank.backbone)["total"]
    statistics = statistics_flops(method.bank.backbone)
    assert details["router"]["statistics_flops"] == statistics > 0
    share = (method.bank.router.flops() + statistics) / flops
    assert details["router"]["flops_share"] == share
    for j, (name, images) in enumerate(tests.items()):
        labels = method.bank.predict(images.images, ticket_ids=j).labels.numpy()
        expected = balanced_accuracy(confusion_matrix(images.targets, labels, 3))
        assert details["oracle_router"]["balanced_accuracy_by_domain"][name] == expected
    assert [t["cluster"] for t in details["tickets"]] == list(DOMAINS)
    overlap = method.bank[0].mask.jaccard(method.bank[1].mask)
    assert [t["similarity"] for t in details["tickets"]] == pytest.approx([overlap] * 2)
    assert details["similarity"][0][1] == overlap

    method.save(str(tmp_path / "bank"))
    loaded = load_bank(tmp_path / "bank")
    same = loaded.predict(tests["green"].images)
    assert np.array_equal(same.labels.numpy(), answers.labels)


def test_what_serving_a_bank_takes(context: RunContext) -> None:
    method: Any = method_class("rtl")(context, MethodConfig())
    for index in range(2):
        method.learn(index)
    bank, found = method.bank, method.parameters()

    def floats(module: torch.nn.Module) -> int:
        return sum(t.numel() for t in module.state_dict().values() if t.is_floating_point())

    backbone = floats(bank.backbone.trunk) + floats(bank.backbone.body)
    head = 3 * bank.backbone.feature_dim + 3
    gate = bank.router.weight.numel() + bank.router.bias.numel()
    union = int((bank[0].mask.to_flat() | bank[1].mask.to_flat()).sum())
    norm = sum(t.numel() for t in bank[0].norm.values() if t.is_floating_point())
    assert found["backbone"] == backbone
    assert found["separate_models"] == 2 * (backbone + head)
    served = floats(bank.backbone.trunk) + union + 2 * (norm + head) + gate
    assert found["effective_union"] == served
    assert found["ratio_vs_separate"] == 2 * (backbone + head) / served
    assert found["union_of_body"] == union / bank.layout.total
    tickets = sum(
        ticket.mask.bits.nbytes + sum(t.nbytes for t in ticket.tensors().values())
        for ticket in bank
    )
    assert found["bytes_on_disk"] == 4 * (backbone + gate) + tickets


def test_a_single_ticket_learns_everything_at_once(context: RunContext) -> None:
    method: Any = method_class("single_ticket")(context, MethodConfig(epochs=1, batch_size=32))
    assert method.protocol == "offline"
    method.learn_all()
    assert len(method.bank) == 1
    info = method.bank[0].info
    assert info.samples == 96
    assert info.domain_counts == {"red": 48, "green": 48}
    images = context.stream.tests["green"]
    answers = method.predict(images)
    assert answers.ticket_ids is None
    expected = method.bank.predict(images.images, ticket_ids=0).labels.numpy()
    assert np.array_equal(answers.labels, expected)
    assert method.parameters()["union_of_body"] == pytest.approx(0.25, abs=1e-3)


def test_mode_joint_learns_all_groups_and_reports_like_rtl(context: RunContext) -> None:
    joint = method_class("rtl_joint")
    method: Any = joint(context, joint.config_class(rounds=1, round_epochs=1))
    assert method.protocol == "offline"
    method.learn_all()
    assert method.bank.names == DOMAINS
    assert all(ticket.mask.sparsity == pytest.approx(0.75, abs=1e-3) for ticket in method.bank)
    method.finish_evaluation(context.stream.tests)
    assert len(method.details()["tickets"]) == 2
    assert method.predict(context.stream.tests["red"]).labels.shape == (30,)
    assert method.parameters()["ratio_vs_separate"] > 1
