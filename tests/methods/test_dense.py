"""Fine-tuning a dense copy of the backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rtl_continual.backbones import RecordedBackbone
from rtl_continual.errors import DataError, RTLError
from rtl_continual.runs._method import RunContext
from rtl_continual.runs.methods._dense import DenseConfig, DenseModel, train_dense
from rtl_continual.runs.methods.independent import IndependentMethod
from rtl_continual.runs.methods.joint import JointMethod
from rtl_continual.streams import Stream, concatenate

MakeContext = Callable[..., RunContext]


@pytest.fixture
def model(make_context: MakeContext) -> DenseModel:
    return DenseModel(make_context().make_backbone(), classes=3, seed=0)


def fit(model: DenseModel, stream: Stream, config: DenseConfig, epochs: int = 1) -> list[str]:
    said: list[str] = []
    train_dense(
        model,
        stream.experiences[0].train,
        config,
        epochs=epochs,
        batch_size=16,
        seed=0,
        advance=said.append,
    )
    return said


def test_an_untrained_copy_computes_what_the_backbone_computes(
    model: DenseModel, make_context: MakeContext, stream: Stream
) -> None:
    images, _ = stream.tests["red"].batch(range(8))
    expected = model.head(make_context().make_backbone()(images))
    torch.testing.assert_close(model.eval()(images), expected)


def test_building_one_leaves_the_random_state_alone(make_context: MakeContext) -> None:
    before = torch.get_rng_state()
    DenseModel(make_context().make_backbone(), classes=3, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_bfloat16_is_of_training_alone(make_context: MakeContext, stream: Stream) -> None:
    context = make_context()
    images, _ = stream.tests["red"].batch(range(8))
    plain, low = (
        DenseModel(
            context.make_backbone(), classes=3, seed=0, own_statistics=False, precision=precision
        )
        for precision in ("float32", "bfloat16")
    )
    assert torch.equal(low.eval()(images), plain.eval()(images))
    exact, rounded = plain.train()(images), low.train()(images)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)


def test_wrong_images_are_refused(model: DenseModel) -> None:
    with pytest.raises(DataError, match=r"images must be \[batch, 3, 8, 8\]"):
        model(torch.zeros(2, 3, 9, 9))


def test_every_weight_and_the_running_statistics_learn(model: DenseModel, stream: Stream) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fit(model, stream, DenseConfig())
    same = [k for k, v in model.state_dict().items() if torch.equal(v, before[k])]
    assert same == []
    assert not any(module.training for module in model.modules())


def test_steps_are_those_of_a_ticket(model: DenseModel, stream: Stream) -> None:
    sizes: list[int] = []
    model.register_forward_hook(lambda _, __, out: sizes.append(len(out)))
    said = fit(model, stream, DenseConfig(), epochs=2)
    # 49 images in batches of 16: the last one would hold a single image and joins the third.
    assert sizes == [16, 16, 17] * 2
    assert [s.split(",")[0] for s in said] == ["epoch 1 of 2", "epoch 2 of 2"]


def test_the_optimizer_is_the_one_that_was_asked_for(
    make_context: MakeContext, stream: Stream
) -> None:
    states = []
    for optimizer in ("adamw", "sgd"):
        model = DenseModel(make_context().make_backbone(), classes=3, seed=0)
        fit(model, stream, DenseConfig(optimizer=optimizer, lr=0.01))  # type: ignore[arg-type]
        states.append(model.head.weight.detach().clone())
    assert not torch.equal(*states)


def test_weight_decay_shrinks_weights(make_context: MakeContext, stream: Stream) -> None:
    norms = []
    for decay in (0.0, 10.0):
        model = DenseModel(make_context().make_backbone(), classes=3, seed=0)
        fit(model, stream, DenseConfig(lr=0.01, weight_decay=decay), epochs=4)
        norms.append(float(model.head.weight.detach().norm()))
    assert norms[1] < 0.9 * norms[0]


def test_divergence_says_what_to_do(model: DenseModel, stream: Stream) -> None:
    with pytest.raises(DataError, match=r"diverged in epoch 1; lower lr, now 1e\+30"):
        fit(model, stream, DenseConfig(optimizer="sgd", lr=1e30))


def test_an_empty_set_is_refused(model: DenseModel, stream: Stream) -> None:
    empty = stream.experiences[0].train.subset([])
    with pytest.raises(DataError, match="empty data set"):
        train_dense(
            model, empty, DenseConfig(), epochs=1, batch_size=8, seed=0, advance=lambda _: None
        )


class TestIndependent:
    def test_a_networks_answers_stay_when_others_are_added(self, make_context: MakeContext) -> None:
        context = make_context(epochs=1)
        method = IndependentMethod(context, DenseConfig())
        method.learn(0)
        images, _ = context.stream.tests["red"].batch(range(30))
        before = method.models[0](images).detach()
        method.learn(1)
        assert torch.equal(method.models[0](images), before)

    def test_the_oracle_matters(self, make_context: MakeContext) -> None:
        context = make_context()
        method = IndependentMethod(context, DenseConfig())
        for index in range(3):
            method.learn(index)
        red = context.stream.tests["red"]
        assert (method.predict(red, domain=0).labels == red.targets).mean() > 0.9
        assert (method.predict(red, domain=1).labels == red.targets).mean() < 0.5

    def test_mixed_experiences_go_to_where_most_of_the_domain_was(
        self, make_context: MakeContext, stream: Stream
    ) -> None:
        red, green, _ = (e.train for e in stream.experiences)
        few, many = np.arange(10), np.arange(20, 45)
        mixed = replace(
            stream,
            experiences=(
                replace(
                    stream.experiences[0], train=concatenate([red.subset(many), green.subset(few)])
                ),
                replace(
                    stream.experiences[1], train=concatenate([green.subset(many), red.subset(few)])
                ),
            ),
        )
        method = IndependentMethod(make_context(stream=mixed, epochs=1), DenseConfig())
        method.learn(0)
        assert [method.model_for(d) for d in range(3)] == [0, 0, 0]
        method.learn(1)
        assert [method.model_for(d) for d in range(3)] == [0, 1, 1]

    def test_it_cannot_answer_without_a_domain_or_a_network(
        self, make_context: MakeContext, stream: Stream
    ) -> None:
        method = IndependentMethod(make_context(), DenseConfig())
        with pytest.raises(RTLError, match="learned nothing yet"):
            method.predict(stream.tests["red"], domain=0)
        with pytest.raises(RTLError, match="cannot answer without one"):
            method.predict(stream.tests["red"])


def test_joint_learns_from_every_experience(make_context: MakeContext, stream: Stream) -> None:
    seen: list[int] = []
    method = JointMethod(make_context(epochs=2), DenseConfig())
    method.model.register_forward_hook(lambda _, __, out: seen.append(len(out)))
    method.learn_all()
    assert sum(seen) == 2 * 3 * 49


@pytest.mark.parametrize("augmented", [{"flip": True, "shift": 0}, {"shift": 1}])
@pytest.mark.parametrize("recorded", [False, True])
def test_augmentation_is_drawn_anew_for_each_training_pass_and_never_when_serving(
    make_context: MakeContext, augmented: dict[str, Any], *, recorded: bool
) -> None:
    backbone = make_context().make_backbone()
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    if recorded:
        backbone = RecordedBackbone(backbone, images)
        images = backbone.record(images)
    model = DenseModel(backbone, 3, 0, **augmented)
    assert torch.equal(model.eval()(images), DenseModel(backbone, 3, 0).eval()(images))
    model.train()
    assert not torch.equal(model(images), model(images))


@pytest.mark.parametrize("kind", ["own", "backbone"])
def test_norm_statistics_are_the_batchs_or_the_backbones(
    kind: str, stream: Stream, make_context: MakeContext
) -> None:
    backbone = make_context().make_backbone()
    config = DenseConfig.model_validate({"norm_statistics": kind, "shift": 0})
    model = DenseModel.configured(backbone, 3, 0, config)
    fit(model, stream, config)
    learned, given = model.network[1].state_dict(), backbone.body.state_dict()
    running = [name for name in given if "running" in name]
    assert running
    assert all(torch.equal(learned[n], given[n]) == (kind == "backbone") for n in running)
    assert not torch.equal(learned["1.weight"], given["1.weight"])


def test_a_balanced_loss_gives_rare_classes_more() -> None:
    targets = np.array([0] * 9 + [1])
    outputs, labels = torch.zeros(10, 2), torch.as_tensor(targets)
    plain, balanced = (DenseConfig(class_balance=w).loss(targets, 2) for w in (0.0, 1.0))
    assert plain is F.cross_entropy
    share = torch.tensor([0.9, 0.1]).log().expand(10, 2)
    torch.testing.assert_close(balanced(outputs, labels), F.cross_entropy(share, labels))


def test_training_asks_for_the_balanced_loss(make_context: MakeContext, stream: Stream) -> None:
    backbone, data = make_context().make_backbone(), stream.experiences[0].train
    few = data.subset(np.flatnonzero((data.targets > 0) | (np.arange(len(data)) < 2)))
    images, _ = few.batch(np.arange(len(few)))
    shares = []
    for weight in (0.0, 1.0):
        config = DenseConfig(shift=0, class_balance=weight)
        model = DenseModel.configured(backbone, len(stream.classes), 0, config)
        train_dense(model, few, config, epochs=2, batch_size=12, seed=0, advance=lambda text: None)
        with torch.no_grad():
            shares.append(float(model(images).softmax(dim=1)[:, 0].mean()))
    assert shares[1] > shares[0]
