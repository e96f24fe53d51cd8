"""The linear probe: convex heads and our router."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from rtl_continual.errors import RTLError
from rtl_continual.routing import UNKNOWN, FlatRouter, Routing
from rtl_continual.runs._method import RunContext
from rtl_continual.runs.methods.linear_probe import (
    LinearProbeConfig,
    LinearProbeMethod,
    _solve_head,
)

MakeContext = Callable[..., RunContext]


def learned(context: RunContext, upto: int = 3) -> LinearProbeMethod:
    method = LinearProbeMethod(context, LinearProbeConfig())
    for index in range(upto):
        method.learn(index)
    return method


def test_heads_are_what_scikit_learn_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(120, 5, generator=generator) * 3 + 1
    noise = torch.randn(120, generator=generator)
    targets = (features[:, 0] - features[:, 1] + 3 * noise > 0).long() + (features[:, 2] > 3).long()
    config = LinearProbeConfig(weight_decay=0.01)
    weight, bias = _solve_head(features, targets, 3, config)
    scaled = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    # Both minimise: mean cross-entropy + weight_decay / 2 * |w|^2, which is C = 1 / (n * decay).
    reference = LogisticRegression(C=1 / (120 * 0.01), tol=1e-8, max_iter=1000)
    reference.fit(scaled, targets.numpy())
    ours = (features @ weight.T + bias).softmax(dim=1)
    np.testing.assert_allclose(ours.numpy(), reference.predict_proba(scaled), atol=1e-3)


def test_a_balanced_head_answers_rare_classes_more_often() -> None:
    features = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    targets = (torch.arange(100) < 5).long()
    answered = [
        int((features @ weight.T + bias).argmax(dim=1).sum())
        for weight, bias in (
            _solve_head(features, targets, 2, LinearProbeConfig(class_balance=balance))
            for balance in (0.0, 1.0)
        )
    ]
    assert answered[0] < 5 < answered[1]


def test_the_router_grows_with_the_heads(make_context: MakeContext) -> None:
    context = make_context()
    method = learned(context)
    assert isinstance(method.router, FlatRouter)
    assert method.router.num_tickets == len(method.heads) == 3
    for domain, images in enumerate(context.stream.tests.values()):
        answers = method.predict(images)
        assert answers.ticket_ids is not None
        assert answers.confidence is not None
        assert (answers.ticket_ids == domain).mean() > 0.95
        assert answers.confidence.min() > 0


def test_earlier_heads_stay(make_context: MakeContext) -> None:
    method = learned(make_context(), upto=1)
    weight, bias = (t.clone() for t in method.heads[0])
    method.learn(1)
    assert torch.equal(method.heads[0][0], weight)
    assert torch.equal(method.heads[0][1], bias)


def test_where_the_router_abstains_the_label_is_unknown(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context()
    method = learned(context)

    def route(features: torch.Tensor, *, budget: int | None = None) -> Routing:
        ids = torch.zeros(len(features), 1, dtype=torch.int64)
        ids[::2] = UNKNOWN
        return Routing(ids, torch.ones(len(features), 1), torch.full((len(features),), 0.2))

    monkeypatch.setattr(method.router, "route", route)
    labels = method.predict(context.stream.tests["red"]).labels
    assert (labels[::2] == -1).all()
    assert (labels[1::2] >= 0).all()


def test_steps_cannot_be_set() -> None:
    with pytest.raises(ValidationError, match="no epochs or batch_size to set"):
        LinearProbeConfig(epochs=3)


def test_nothing_learned_is_said(make_context: MakeContext) -> None:
    context = make_context()
    with pytest.raises(RTLError, match="learned nothing yet"):
        LinearProbeMethod(context, LinearProbeConfig()).predict(context.stream.tests["red"])
