"""What the dense references and the linear probe share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rtl_continual.backbones import backbone_flops
from rtl_continual.errors import RTLError
from rtl_continual.routing import FlatRouterConfig
from rtl_continual.runs._method import Answers, Method, RunContext
from rtl_continual.runs.methods import METHODS, method_class
from rtl_continual.tasks import balanced_accuracy, confusion_matrix
from rtl_continual.training import TicketConfig

MakeContext = Callable[..., RunContext]
REFERENCES = ["independent", "joint", "linear_probe"]


def learned(name: str, context: RunContext, **options: Any) -> Method[Any]:
    cls = method_class(name)
    method = cls(context, cls.config_class(**options))
    if cls.protocol == "offline":
        method.learn_all()
    else:
        for index in range(len(context.stream.experiences)):
            method.learn(index)
    return method


def answers(method: Method[Any]) -> list[Answers]:
    return [
        method.predict(images, domain=domain if method.needs_domain else None)
        for domain, images in enumerate(method.context.stream.tests.values())
    ]


@pytest.mark.parametrize("name", METHODS)
def test_every_name_leads_to_its_method(name: str) -> None:
    cls = method_class(name)
    assert issubclass(cls, Method)
    assert cls.name == name
    assert cls.summary
    cls.config_class()


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(RTLError, match="unknown method 'independant'; did you mean 'independent'"):
        method_class("independant")


@pytest.mark.parametrize("name", REFERENCES)
def test_options_are_checked(name: str) -> None:
    with pytest.raises(ValidationError, match="weight_dekay"):
        method_class(name).config_class(weight_dekay=0.1)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        method_class(name).config_class(weight_decay=-1)


@pytest.mark.parametrize("name", REFERENCES)
def test_learns_every_domain(name: str, make_context: MakeContext) -> None:
    context = make_context(epochs=15)
    options = {} if name == "linear_probe" else {"lr": 0.01}
    for (domain, images), answer in zip(
        context.stream.tests.items(), answers(learned(name, context, **options)), strict=True
    ):
        assert answer.labels.shape == (len(images),)
        score = balanced_accuracy(confusion_matrix(images.targets, answer.labels, 3))
        assert score > 0.9, domain


@pytest.mark.parametrize("name", REFERENCES)
def test_the_same_seed_gives_the_same_answers(name: str, make_context: MakeContext) -> None:
    first = answers(learned(name, make_context(epochs=1)))
    torch.rand(5)
    second = answers(learned(name, make_context(epochs=1)))
    for a, b in zip(first, second, strict=True):
        assert a.labels.tolist() == b.labels.tolist()


@pytest.mark.parametrize("name", REFERENCES)
def test_the_backbone_stays_frozen(name: str, make_context: MakeContext) -> None:
    method: Any = learned(name, make_context())
    assert method.backbone.compute_identity() == method.context.make_backbone().identity


@pytest.mark.parametrize("name", REFERENCES)
def test_predicting_reads_neither_targets_nor_domains(
    name: str, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(epochs=1)
    method = learned(name, context)
    before = [a.labels.tolist() for a in answers(method)]
    for images in context.stream.tests.values():
        monkeypatch.delattr(images, "domains")
        monkeypatch.setattr(images, "targets", images.targets * 0)
    assert [a.labels.tolist() for a in answers(method)] == before


# Tiny network: trunk 3*8*9 + 8 and a norm of 4*8; body 8*16*9 and a norm of 4*16; head 64*3 + 3.
BACKBONE = 216 + 8 + 32 + 1152 + 64
HEAD = 195
GATE = 3 * 16 + 3
TRAINABLE = BACKBONE - 16 - 32 + HEAD


@pytest.mark.parametrize(
    ("name", "stored", "trainable"),
    [
        ("independent", 3 * (BACKBONE + HEAD), TRAINABLE),
        ("joint", BACKBONE + HEAD, TRAINABLE),
        ("linear_probe", BACKBONE + 3 * HEAD + GATE, HEAD + GATE),
    ],
)
def test_parameters_are_counted(
    name: str, stored: int, trainable: int, make_context: MakeContext
) -> None:
    separate = 3 * (BACKBONE + HEAD)
    method = learned(name, make_context(epochs=1))
    mixtures = getattr(method, "mixtures", [])
    assert len(mixtures) == (3 if name == "linear_probe" else 0)
    assert method.parameters() == {
        "backbone": BACKBONE,
        "effective_union": stored,
        "separate_models": separate,
        "ratio_vs_separate": separate / stored,
        "bytes_on_disk": 4 * stored + sum(t.nbytes for m in mixtures for t in m.tensors().values()),
        "trainable": trainable,
    }


@pytest.mark.parametrize("name", ["rtl", "single_ticket"])
def test_merged_features_cost_a_pass_and_the_whole_body(
    name: str, make_context: MakeContext
) -> None:
    found = {}
    for features in ("own", "merged"):
        tickets = TicketConfig(features=features, head_finish="probe")
        method = learned(
            name, make_context(sections={"tickets": tickets, "router": FlatRouterConfig()})
        )
        found[features] = method.inference_ratio(), method.parameters()
    (own, few), (merged, all_) = found["own"], found["merged"]
    flops = backbone_flops(make_context().make_backbone())
    assert merged - own == pytest.approx(flops["body"] / flops["total"])
    assert all_["union_of_body"] == 1.0 > few["union_of_body"]
    assert all_["ratio_vs_separate"] < few["ratio_vs_separate"]


def test_supsup_superposes_plain_tickets_only(make_context: MakeContext) -> None:
    tickets = TicketConfig(features="merged", head_finish="probe")
    with pytest.raises(RTLError, match=r"needs tickets\.features: own"):
        learned("supsup", make_context(sections={"tickets": tickets, "router": FlatRouterConfig()}))
