"""Rivals written here: their contract, and that each one's main knob matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rtl_continual.discovery import DiscoveryConfig
from rtl_continual.errors import RTLError
from rtl_continual.routing import FlatRouterConfig
from rtl_continual.runs._method import Method, MethodConfig, RunContext
from rtl_continual.runs.methods import method_class as method_named
from rtl_continual.runs.methods._frozen import frozen_features
from rtl_continual.runs.methods.adapters import AdaptersConfig, AdaptersMethod
from rtl_continual.runs.methods.ncm import NCMConfig, NCMMethod
from rtl_continual.runs.methods.piggyback import PiggybackConfig, PiggybackMethod
from rtl_continual.runs.methods.ranpac import RanPACConfig, RanPACMethod
from rtl_continual.runs.methods.rtl import RTLMethod
from rtl_continual.runs.methods.supsup import SupSupConfig, SupSupMethod, entropy_gradient
from rtl_continual.tasks import balanced_accuracy, confusion_matrix
from rtl_continual.training import TicketConfig

MakeContext = Callable[..., RunContext]

RIVALS: dict[str, tuple[type[Method[Any]], Any]] = {
    "ncm": (NCMMethod, NCMConfig()),
    "ranpac": (RanPACMethod, RanPACConfig(projection=200)),
    "adapters": (AdaptersMethod, AdaptersConfig()),
    "piggyback": (PiggybackMethod, PiggybackConfig()),
    "supsup": (SupSupMethod, SupSupConfig()),
}


def learned(context: RunContext, name: str, config: Any = None) -> Any:
    method_class, default = RIVALS[name]
    method = method_class(context, config or default)
    for index in range(len(context.stream.experiences)):
        method.learn(index)
    return method


def score(method: Any) -> float:
    """Mean balanced accuracy over domains."""
    return float(
        np.mean(
            [
                balanced_accuracy(
                    confusion_matrix(
                        images.targets,
                        method.predict(images, domain=d if method.needs_domain else None).labels,
                        3,
                    )
                )
                for d, images in enumerate(method.context.stream.tests.values())
            ]
        )
    )


@pytest.mark.parametrize("name", RIVALS)
def test_contract(make_context: MakeContext, name: str) -> None:
    context = make_context()
    method_class, config = RIVALS[name]
    method = method_class(context, config)
    state = torch.get_rng_state()
    for index in range(len(context.stream.experiences)):
        method.learn(index)
    assert method.name == name
    # A third is chance, and what one ticket gets everywhere: entropy tells these apart badly.
    assert score(method) > (0.3 if name == "supsup" else 0.6)
    assert torch.equal(torch.get_rng_state(), state)
    assert method.inference_ratio() >= 1
    parameters = method.parameters()
    assert parameters["effective_union"] > 0
    assert parameters["bytes_on_disk"] > 0
    assert parameters["trainable"] > 0
    again = learned(context, name)
    for d, images in enumerate(context.stream.tests.values()):
        domain = d if method.needs_domain else None
        same = method.predict(images, domain=domain).labels
        assert np.array_equal(again.predict(images, domain=domain).labels, same)


@pytest.mark.parametrize("name", ["ncm", "ranpac", "adapters", "piggyback"])
def test_nothing_learned_yet(make_context: MakeContext, name: str) -> None:
    method_class, config = RIVALS[name]
    context = make_context()
    with pytest.raises(RTLError, match="has learned nothing yet"):
        method_class(context, config).predict(context.stream.tests["red"], domain=0)


@pytest.mark.parametrize("config_class", [NCMConfig, RanPACConfig])
def test_a_single_pass_has_no_epochs(config_class: type[NCMConfig]) -> None:
    with pytest.raises(ValidationError, match="no epochs or batch_size"):
        config_class(epochs=3)


def test_ncm_prototypes_matter(make_context: MakeContext) -> None:
    # A quadrant stands for another class in each domain, so one mean for all says nothing.
    context = make_context()
    own = learned(context, "ncm")
    shared = learned(context, "ncm", NCMConfig(prototypes="class"))
    assert score(own) > score(shared) + 0.3
    assert own.parameters()["effective_union"] > shared.parameters()["effective_union"]


def test_ranpac_sums_give_what_all_data_at_once_gives(make_context: MakeContext) -> None:
    context = make_context()
    method = learned(context, "ranpac", RanPACConfig(projection=50, ridge=10.0))
    features = torch.cat(
        [frozen_features(method.backbone, e.train).final for e in context.stream.experiences]
    )
    targets = np.concatenate([e.train.targets for e in context.stream.experiences])
    hidden = torch.relu(features @ method._project).double()
    wanted = torch.linalg.solve(
        hidden.T @ hidden + 10 * torch.eye(50).double(), hidden.T @ torch.eye(3).double()[targets]
    )
    torch.testing.assert_close(method._weight.double(), wanted, rtol=1e-4, atol=1e-6)


def test_ranpac_projection_and_ridge_matter(make_context: MakeContext) -> None:
    context = make_context()
    best = score(learned(context, "ranpac", RanPACConfig(projection=400)))
    assert best > score(learned(context, "ranpac", RanPACConfig(projection=2))) + 0.2
    assert best > score(learned(context, "ranpac", RanPACConfig(projection=400, ridge=1e12))) + 0.05
    plain = learned(context, "ranpac", RanPACConfig(projection=0))
    assert plain._weight.shape == (64, 3)
    assert plain.inference_ratio() < learned(context, "ranpac").inference_ratio()


def test_ranpac_chooses_a_ridge(make_context: MakeContext) -> None:
    assert learned(make_context(), "ranpac").ridge > 0.01


def test_adapters_route_by_centroids(make_context: MakeContext) -> None:
    context = make_context()
    method = learned(context, "adapters")
    one = learned(context, "adapters", AdaptersConfig(centroids=1))
    right = {}
    for label, each in (("five", method), ("one", one)):
        hits = [
            (each.predict(images).ticket_ids == d).mean()
            for d, images in enumerate(context.stream.tests.values())
        ]
        right[label] = float(np.mean(hits))
    assert right["five"] > 0.95
    method.finish_evaluation(dict(context.stream.tests))
    router = method.details()["router"]
    assert router["accuracy"] == pytest.approx(right["five"])  # as many images in each domain
    assert np.array(router["confusion"]).sum() == 90
    assert one.parameters()["effective_union"] < method.parameters()["effective_union"]
    assert [len(c) for c in one._centroids] == [1, 1, 1]
    assert all(ticket.mask.sparsity == 0 for ticket in method.bank)
    assert 1 < method.inference_ratio() < 2


def test_adapters_norm_rate_matters(make_context: MakeContext) -> None:
    context = make_context()
    slow = learned(context, "adapters", AdaptersConfig(norm_lr=1e-9))
    fast = learned(context, "adapters")
    affine = [n for n in fast.bank.norm_names if n.endswith("weight")]
    assert affine
    for name in affine:
        start = dict(slow.bank.backbone.body.named_parameters())[name]
        assert torch.allclose(slow.bank[0].norm[name], start, atol=1e-5)
        assert not torch.allclose(fast.bank[0].norm[name], start, atol=1e-3)


def test_piggyback_threshold_matters(make_context: MakeContext) -> None:
    context = make_context()
    dense = learned(context, "piggyback", PiggybackConfig(threshold=-1.0))
    masked = learned(context, "piggyback", PiggybackConfig(mask_lr=0.01))
    empty = learned(context, "piggyback", PiggybackConfig(threshold=1.0))
    assert all(ticket.mask.sparsity == 0 for ticket in dense.bank)
    assert all(0 < ticket.mask.sparsity < 1 for ticket in masked.bank)
    assert masked.bank[0].mask != masked.bank[1].mask
    assert score(masked) > score(empty) + 0.2
    with pytest.raises(RTLError, match="cannot answer without"):
        masked.predict(context.stream.tests["red"])


def test_piggyback_can_share_norms(make_context: MakeContext) -> None:
    method = learned(make_context(), "piggyback", PiggybackConfig(norm_lr=None))
    state = method.bank.backbone.body.state_dict()
    for ticket in method.bank:
        assert all(torch.equal(ticket.norm[name], state[name]) for name in method.bank.norm_names)


def test_supsup_gradient_is_that_of_the_entropy(make_context: MakeContext) -> None:
    context = make_context()
    method = learned(context, "supsup")
    images, _ = context.stream.tests["red"].batch([0, 7])
    found = entropy_gradient(method.bank, images)
    assert found.shape == (2, 3)
    # The same by autograd, one image alone.
    own = [method.bank.effective_parameters(i) for i in range(3)]
    shares = torch.full((3,), 1 / 3, requires_grad=True)
    values = {
        k: sum(s * (o[k].detach()) for s, o in zip(shares, own, strict=True))
        for k in own[0]
        if own[0][k].is_floating_point()
    }
    values = {k: v.detach() if "running" in k else v for k, v in values.items()}
    bank = method.bank
    activation = bank.backbone.run_trunk(images[:1]).activation
    body = {k.removeprefix("body."): v for k, v in values.items() if k.startswith("body.")}
    out = torch.func.functional_call(bank.backbone.body, body, (activation,))
    logits = out @ values["head.weight"].T + values["head.bias"]
    p = logits.softmax(dim=1)
    entropy = -(p * p.log()).sum()
    wanted = torch.autograd.grad(entropy, shares)[0]
    torch.testing.assert_close(found[0], wanted, rtol=1e-3, atol=1e-4)


def test_supsup_decides_for_groups_together(make_context: MakeContext) -> None:
    # Tickets that share nearly all of their weights would leave nothing to decide.
    tickets = TicketConfig(sparsity_weight=0)
    context = make_context(sections={"tickets": tickets, "router": FlatRouterConfig()})
    method = learned(context, "supsup")
    together = learned(context, "supsup", SupSupConfig(group=15))
    mixed = 0
    for images in context.stream.tests.values():
        alone = method.predict(images).ticket_ids
        mixed += len(set(alone.tolist())) > 1
        slopes = entropy_gradient(method.bank, images.batch(range(30))[0])
        assert alone.tolist() == slopes.argmin(dim=1).tolist()
        wanted = [int(half.mean(dim=0).argmin()) for half in slopes.split(15)]
        assert together.predict(images).ticket_ids.tolist() == np.repeat(wanted, 15).tolist()
    assert mixed  # else groups would decide nothing
    method.finish_evaluation(dict(context.stream.tests))
    assert method.details()["router"]["name"] == "entropy gradient"
    plain = RTLMethod(context, SupSupConfig())
    assert method.inference_ratio() > 3 > plain.inference_ratio()


def test_features_are_computed_once_and_paid_by_all(make_context: MakeContext) -> None:
    context = make_context()
    first, second = NCMMethod(context, NCMConfig()), RanPACMethod(context, RIVALS["ranpac"][1])
    fresh = context.stream.experiences[0].train.subset(range(40))
    before = frozen_features(first.backbone, fresh)
    after = frozen_features(second.backbone, fresh)
    assert before.borrowed_seconds == 0 < after.borrowed_seconds
    assert torch.equal(before.final, after.final)
    small = frozen_features(first.backbone, fresh.subset(range(8)), cache_bytes=0)
    assert torch.allclose(small.final, before.final[:8], atol=1e-5)
    learned(context, "ncm")
    assert learned(context, "ranpac").borrowed_seconds["train"] > 0


def test_domains_without_training_do_not_count_for_the_router(make_context: MakeContext) -> None:
    context = make_context()
    stream = context.stream
    fewer = dataclasses.replace(stream, experiences=stream.experiences[:2])
    method = RTLMethod(make_context(stream=fewer), MethodConfig())
    for index in range(2):
        method.learn(index)
    method.finish_evaluation(dict(fewer.tests))
    details = method.details()
    confusion = np.array(details["router"]["confusion"])
    right = (confusion[0, 0] + confusion[1, 1]) / confusion[:2].sum()
    assert details["router"]["accuracy"] == pytest.approx(right)
    oracle = details["oracle_router"]
    by_domain = oracle["balanced_accuracy_by_domain"]
    assert by_domain["blue"] is None
    mean = (by_domain["red"] + by_domain["green"]) / 2
    assert oracle["balanced_accuracy_domain_mean"] == pytest.approx(mean)


@pytest.mark.parametrize("kind", ["independent", "linear_probe", "rtl", "naive"])
def test_domains_without_training_need_no_model_of_their_own(
    make_context: MakeContext, kind: str
) -> None:
    stream = make_context().stream
    fewer = dataclasses.replace(stream, experiences=stream.experiences[:2])
    counts = {}
    for part in (stream, fewer):
        method_type = method_named(kind)
        method = method_type(make_context(stream=part), method_type.config_class())
        method.learn(0)
        method.learn(1)
        counts[len(part.experiences)] = method.parameters()["separate_models"]
    assert counts[2] == pytest.approx(counts[3] * 2 / 3)


@pytest.fixture
def by_class(make_context: MakeContext) -> RTLMethod:
    """A ticket for each of one domain's three classes."""
    context = make_context()
    options = {"clusterer": {"name": "classes", "groups": 3}, "min_support": 5}
    context.sections.update(growth="discover", discovery=DiscoveryConfig.model_validate(options))
    stream = context.stream
    one = dataclasses.replace(
        stream,
        domains=("red",),
        experiences=stream.experiences[:1],
        tests={"red": stream.tests["red"]},
    )
    method = RTLMethod(make_context(stream=one, sections=context.sections), MethodConfig())
    method.learn(0)
    return method


def test_with_class_groups_the_oracle_knows_the_group(by_class: RTLMethod) -> None:
    method, tests = by_class, by_class.context.stream.tests
    method.finish_evaluation(dict(tests))
    details = method.details()
    # A ticket that has seen a single class always answers it.
    assert details["oracle_router"]["balanced_accuracy_domain_mean"] == 1
    answers = method.predict(tests["red"])
    assert answers.ticket_ids is not None
    classes = [
        int(method.bank.predict(tests["red"].batch([0])[0], ticket_ids=i).labels[0])
        for i in range(3)
    ]
    right = np.array(classes)[answers.ticket_ids] == tests["red"].targets
    assert sorted(classes) == [0, 1, 2]
    assert details["router"]["accuracy"] == pytest.approx(right.mean())


def test_class_groups_are_compared_with_a_model_for_each(by_class: RTLMethod) -> None:
    method = by_class
    assert len(method.bank) == 3
    parameters = method.parameters()
    head = 64 * 3 + 3
    assert parameters["separate_models"] == 3 * (parameters["backbone"] + head)
