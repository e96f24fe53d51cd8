"""The baselines: each knob does something, the contract holds, and nothing leaks."""

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

from rtl_continual.avalanche.baselines import (
    EWCConfig,
    EWCMethod,
    NaiveMethod,
    ReplayConfig,
    ReplayMethod,
    SLDAConfig,
    SLDAMethod,
)
from rtl_continual.backbones import Backbone
from rtl_continual.runs import DenseConfig, Method, RunContext
from rtl_continual.streams import Stream
from rtl_continual.tasks import balanced_accuracy, confusion_matrix

# A row of the image tells its class, so images must not be moved.
METHODS: dict[str, tuple[type[Method[Any]], Any]] = {
    "naive": (NaiveMethod, DenseConfig(shift=0)),
    "replay": (ReplayMethod, ReplayConfig(shift=0, memory=20)),
    "ewc": (EWCMethod, EWCConfig(shift=0)),
    "slda": (SLDAMethod, SLDAConfig()),
}


class Run:
    """One method on the toy stream."""

    def __init__(self, stream: Stream, backbone: Backbone) -> None:
        self.stream, self.backbone = stream, backbone
        self.said: list[str] = []

    def context(self, seed: int = 0, epochs: int = 3) -> RunContext:
        return RunContext(
            stream=self.stream,
            make_backbone=self._copy,
            epochs=epochs,
            batch_size=12,
            seed=seed,
            sections={},
            emit=lambda *args, **kwargs: None,
            advance=self.said.append,
        )

    def _copy(self) -> Backbone:
        return copy.deepcopy(self.backbone)

    def learn(self, name: str, config: Any = None, **options: Any) -> Method[Any]:
        method_class, default = METHODS[name]
        method = method_class(self.context(**options), config or default)
        for index in range(len(self.stream.experiences)):
            method.learn(index)
        return method

    def labels(self, method: Method[Any]) -> np.ndarray:
        return np.concatenate([method.predict(t).labels for t in self.stream.tests.values()])

    def accuracy(self, method: Method[Any]) -> list[float]:
        return [
            balanced_accuracy(confusion_matrix(t.targets, method.predict(t).labels, 4))
            for t in self.stream.tests.values()
        ]

    def weights(self, name: str, config: Any = None, **options: Any) -> torch.Tensor:
        model: Any = self.learn(name, config, **options)
        return torch.cat([p.detach().flatten() for p in model.strategy.model.parameters()])


@pytest.fixture
def run(stream: Stream, backbone: Backbone) -> Run:
    return Run(stream, backbone)


@pytest.mark.parametrize("name", METHODS)
def test_contract(run: Run, name: str) -> None:
    screen, errors = io.StringIO(), io.StringIO()
    filters = list(warnings.filters)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(errors):
        method = run.learn(name)
    assert (screen.getvalue(), errors.getvalue()) == ("", "")
    # Functions that Avalanche deprecates change the filters of the whole process.
    assert warnings.filters == filters
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert method.name == name
    assert method.protocol == "continual"
    assert not method.needs_domain
    for images in run.stream.tests.values():
        answers = method.predict(images)
        assert answers.labels.shape == (20,)
        assert answers.labels.dtype == np.int64
        assert answers.ticket_ids is None
    assert any("experience 2" in line for line in run.said)
    # 6*27+6 weights in the trunk; 12*54 and 16*108 convolutions and 4*(12+16) norm in the body.
    backbone = 168 + 648 + 1728 + 112
    head = 64 * 4 + 4
    assert method.parameters() == {
        "backbone": backbone,
        "effective_union": backbone + head,
        "separate_models": 2 * (backbone + head),
        "ratio_vs_separate": 2.0,
        "bytes_on_disk": 4 * (backbone + head),
        # Running statistics are not trained; slda learns class means and one covariance.
        "trainable": 64 * 4 + 64 * 64 if name == "slda" else backbone + head - 2 * (12 + 16),
    }


@pytest.mark.parametrize("name", METHODS)
def test_learns_and_repeats_itself(run: Run, name: str) -> None:
    method = run.learn(name, epochs=8)
    # The last domain is always known; chance is 0.25.
    assert run.accuracy(method)[1] > 0.7
    torch.manual_seed(99)
    again = run.learn(name, epochs=8)
    assert np.array_equal(run.labels(method), run.labels(again))


def test_seeds_differ(run: Run) -> None:
    assert not torch.equal(run.weights("naive"), run.weights("naive", seed=1))


def test_learning_starts_from_the_backbone_and_leaves_it(run: Run) -> None:
    identity = run.backbone.compute_identity()
    method: Any = METHODS["naive"][0](run.context(), DenseConfig(shift=0))
    start = {k: v.clone() for k, v in method.strategy.model.network.state_dict().items()}
    trunk = {f"0.{k}": v for k, v in run.backbone.trunk.state_dict().items()}
    assert all(torch.equal(start[k], v) for k, v in trunk.items())
    method.learn(0)
    after = method.strategy.model.network.state_dict()
    assert not any(torch.equal(after[k], v) for k, v in start.items() if v.is_floating_point())
    assert run.backbone.compute_identity() == identity


def test_rate_knob(run: Run) -> None:
    weights = [run.weights("naive", DenseConfig(shift=0, lr=lr)) for lr in (0.001, 0.01)]
    assert not torch.equal(*weights)


def test_optimizer_knob(run: Run) -> None:
    weights = [run.weights("naive", DenseConfig(shift=0, optimizer=o)) for o in ("adamw", "sgd")]
    assert not torch.equal(*weights)


def test_shift_knob(run: Run) -> None:
    weights = [run.weights("naive", DenseConfig(shift=s)) for s in (0, 2)]
    assert not torch.equal(*weights)


def test_the_rate_falls_to_zero_in_each_experience(run: Run) -> None:
    method: Any = METHODS["naive"][0](run.context(epochs=2), DenseConfig(shift=0, lr=0.01))
    rates: list[float] = []
    step = method.strategy.optimizer_step

    def record() -> None:
        rates.append(method.strategy.optimizer.param_groups[0]["lr"])
        step()

    method.strategy.optimizer_step = record
    for index in range(2):
        method.learn(index)
    # 37 images in batches of 12: 4 steps an epoch.
    assert len(rates) == 16
    assert rates[:8] == rates[8:]
    assert rates[0] == 0.01
    assert rates[:8] == sorted(rates[:8], reverse=True)
    assert rates[7] < 0.0006


def test_memory_knob(run: Run) -> None:
    naive = run.weights("naive")
    assert torch.equal(run.weights("replay", ReplayConfig(shift=0, memory=0)), naive)
    assert not torch.equal(run.weights("replay", ReplayConfig(shift=0, memory=8)), naive)


def test_memory_helps_and_is_as_large_as_it_says(run: Run) -> None:
    naive = run.accuracy(run.learn("naive", epochs=8))
    method: Any = run.learn("replay", ReplayConfig(shift=0, memory=30), epochs=8)
    assert run.accuracy(method)[0] >= naive[0]
    plugin = method.strategy.plugins[0]
    assert len(plugin.storage_policy.buffer) == 30
    assert method.details() == {"memory": {"images": 30, "bytes": 30 * 3 * 64}}


def test_lambda_knob(run: Run) -> None:
    naive = run.weights("naive")
    assert torch.equal(run.weights("ewc", EWCConfig(shift=0, ewc_lambda=0.0)), naive)
    some = run.weights("ewc", EWCConfig(shift=0, ewc_lambda=100.0))
    much = run.weights("ewc", EWCConfig(shift=0, ewc_lambda=1e7))
    assert not torch.equal(some, naive)
    # After the first experience all are equal; a large penalty then holds the weights there.
    first: Any = METHODS["ewc"][0](run.context(), EWCConfig(shift=0))
    first.learn(0)
    held = torch.cat([p.detach().flatten() for p in first.strategy.model.parameters()])
    assert (much - held).norm() < (naive - held).norm()


def test_mode_knob(run: Run) -> None:
    # With two experiences both modes have the same one penalty; a third tells them apart.
    def weights() -> list[torch.Tensor]:
        configs = [EWCConfig(shift=0, ewc_lambda=1e4, mode=m) for m in ("separate", "online")]
        return [run.weights("ewc", config) for config in configs]

    assert torch.equal(*weights())
    experiences = (*run.stream.experiences, run.stream.experiences[0])
    run.stream = dataclasses.replace(run.stream, experiences=experiences)
    assert not torch.equal(*weights())


def test_shrinkage_knob(run: Run) -> None:
    methods: list[Any] = [run.learn("slda", SLDAConfig(shrinkage=s)) for s in (1e-4, 1.0)]
    scores = []
    for method in methods:
        method.predict(run.stream.tests["red"])
        scores.append(method.strategy.Lambda)
    assert not torch.allclose(*scores)
    assert torch.allclose(scores[1], torch.eye(64), atol=1e-5)


def test_slda_reads_each_image_once_and_trains_no_weight(run: Run) -> None:
    method: Any = run.learn("slda", epochs=5)
    assert method.strategy.num_updates == 2 * 37
    assert method.backbone.compute_identity() == run.backbone.compute_identity()
    images, targets = run.stream.experiences[0].train.batch(range(37))
    one: Any = METHODS["slda"][0](run.context(), SLDAConfig())
    one.learn(0)
    features = run.backbone(images)
    means = torch.stack([features[targets == c].mean(dim=0) for c in range(4)])
    assert torch.allclose(one.strategy.muK, means, atol=1e-4)
