"""DER++ and LwF: each knob does something, and nothing leaks."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.training.plugins import LwFPlugin

from rtl_continual.avalanche.rivals import DERConfig, DERMethod, LwFConfig, LwFMethod
from rtl_continual.backbones import Backbone
from rtl_continual.runs import Method, RunContext
from rtl_continual.streams import Stream


def build(
    method_class: type[Method[Any]],
    config: Any,
    stream: Stream,
    backbone: Backbone,
    epochs: int = 3,
) -> Method[Any]:
    context = RunContext(
        stream=stream,
        make_backbone=lambda: copy.deepcopy(backbone),
        epochs=epochs,
        batch_size=12,
        seed=0,
        sections={},
        emit=lambda *args, **kwargs: None,
        advance=lambda text: None,
    )
    return method_class(context, config)


def learn(
    method_class: type[Method[Any]],
    config: Any,
    stream: Stream,
    backbone: Backbone,
    epochs: int = 3,
) -> Method[Any]:
    method = build(method_class, config, stream, backbone, epochs)
    for index in range(len(stream.experiences)):
        method.learn(index)
    return method


def weights(method: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in method.strategy.model.parameters()])


CASES = [(DERMethod, DERConfig(shift=0, memory=20)), (LwFMethod, LwFConfig(shift=0))]


@pytest.mark.parametrize(("method_class", "config"), CASES)
def test_contract(
    method_class: type[Method[Any]], config: Any, stream: Stream, backbone: Backbone
) -> None:
    screen, filters = io.StringIO(), list(warnings.filters)
    before = torch.get_rng_state()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        method = learn(method_class, config, stream, backbone)
    assert screen.getvalue() == ""
    assert warnings.filters == filters
    assert torch.equal(torch.get_rng_state(), before)
    answers = method.predict(stream.tests["red"])
    assert answers.labels.shape == (20,)
    assert method.parameters()["ratio_vs_separate"] == 2.0
    assert torch.equal(weights(method), weights(learn(method_class, config, stream, backbone)))


def moved(method: Any, fresh: Any, images: torch.Tensor) -> float:
    """How far the answers are from those after the first experience alone."""
    fresh.learn(0)
    with torch.no_grad():
        before = fresh.strategy.model.eval()(images).softmax(1)
        return float((method.strategy.model.eval()(images).softmax(1) - before).abs().mean())


def test_der_memory_keeps_the_answers(stream: Stream, backbone: Backbone) -> None:
    images, _ = stream.experiences[0].train.batch(np.arange(37))

    def drift(**options: Any) -> float:
        config = DERConfig(shift=0, lr=0.01, memory=24, **options)
        method = learn(DERMethod, config, stream, backbone, epochs=5)
        return moved(method, DERMethod(method.context, config), images)

    assert drift(alpha=5.0) < 0.7 * drift(alpha=0.0, beta=0.0)


def test_der_alpha_and_beta_matter(stream: Stream, backbone: Backbone) -> None:
    base = weights(learn(DERMethod, DERConfig(shift=0, memory=20), stream, backbone))
    for changed in ({"alpha": 2.0}, {"beta": 0.0}):
        config = DERConfig(shift=0, memory=20, **changed)
        assert not torch.equal(weights(learn(DERMethod, config, stream, backbone)), base)
    memory = learn(DERMethod, DERConfig(memory=20), stream, backbone).details()["memory"]
    assert memory == {"images": 20, "bytes": 20 * (3 * 8 * 8 + 4 * 4)}


def test_der_weighs_rare_classes_in_new_and_old_images(stream: Stream, backbone: Backbone) -> None:
    first = stream.experiences[0].train
    rare = first.subset(np.flatnonzero((first.targets > 0) | (np.arange(37) < 1)))
    tail = dataclasses.replace(stream.experiences[0], train=rare)
    stream = dataclasses.replace(stream, experiences=(tail, tail))

    def recall(weight: float, beta: float) -> torch.Tensor:
        config = DERConfig(shift=0, memory=20, alpha=0, beta=beta, class_balance=weight)
        method: Any = learn(DERMethod, config, stream, backbone, epochs=2)
        with torch.no_grad():
            images, _ = rare.batch(np.arange(len(rare)))
            return method.strategy.model.eval()(images).softmax(1)[:, 0].mean()

    for beta in (0.0, 1.0):
        assert recall(1.0, beta) > recall(0.0, beta)
    assert recall(1.0, 1.0) != recall(1.0, 0.0)


def test_lwf_alpha_holds_the_answers(stream: Stream, backbone: Backbone) -> None:
    images, _ = stream.experiences[1].train.batch(np.arange(37))

    def drift(alpha: float) -> float:
        config = LwFConfig(shift=0, alpha=alpha, lr=0.01)
        method = learn(LwFMethod, config, stream, backbone, epochs=5)
        return moved(method, LwFMethod(method.context, config), images)

    assert drift(20.0) < 0.9 * drift(0.0)


def test_lwf_asks_the_finished_network_about_the_same_images(
    stream: Stream, backbone: Backbone
) -> None:
    method: Any = build(LwFMethod, LwFConfig(shift=1), stream, backbone)
    (plugin,) = (p for p in method.strategy.plugins if isinstance(p, LwFPlugin))
    method.learn(0)
    old = plugin.lwf.prev_model
    before = {name: value.clone() for name, value in old.state_dict().items()}
    assert any("running" in name for name in before)
    method.learn(1)
    # Its statistics are those that it ended with, and as many calls mean the same shifts.
    assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())
    assert old.training
    assert old._calls == method.strategy.model._calls > 2
