"""A scenario that runs in a second, and a method whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field

from rtl_continual.plugins import get_manager, hookimpl
from rtl_continual.runs import Answers, Method, MethodConfig
from rtl_continual.streams import ImageSet

SCENARIO = """\
name: tiny
seeds: [0]
stream:
  name: digits
  domains: [printed, handwritten]
  images_per_domain: 20
  test_images_per_domain: 20
backbone: {name: glyphnet, weights: "random:0", width: 2}
tickets: {epochs: 1, sparsity: 0.5}
methods:
  fake:
"""


class FakeConfig(MethodConfig):
    wrong: float = Field(0.0, ge=0, le=1, description="share of wrong answers")
    forgets: bool = Field(False, description="earlier domains get wrong answers only")
    fails: str = Field("", description="how it breaks: '', 'mistake', 'bug' or 'thaw'")


class FakeMethod(Method[FakeConfig]):
    """Answers right but for a random share; says so of the tickets it does not have."""

    name: ClassVar[str] = "fake"
    summary: ClassVar[str] = "knows the answers"
    config_class: ClassVar[type[MethodConfig]] = FakeConfig

    def learn(self, index: int) -> None:
        self.index = index
        self.backbone = self.context.make_backbone()
        if self.config.fails == "mistake":
            from rtl_continual.errors import DataError

            raise DataError("no such images")
        if self.config.fails == "bug":
            raise ZeroDivisionError("division by zero")
        if self.config.fails == "thaw":
            next(self.backbone.body.parameters()).data.add_(1)
        self.context.emit("ticket_added", ticket=index, parent=None)
        self.context.advance(f"epoch 1 of {self.epochs}")

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        wrong = torch.rand(len(images)).numpy() < self.config.wrong
        if self.config.forgets and images.domains[0] != self.index:
            wrong[:] = True
        return Answers(np.where(wrong, -1, images.targets))

    def parameters(self) -> dict[str, float]:
        return {
            "backbone": 100,
            "effective_union": 50,
            "separate_models": 200,
            "ratio_vs_separate": 4.0,
            "bytes_on_disk": 400,
            "trainable": 10,
        }

    def finish_evaluation(self, tests: dict[str, ImageSet]) -> None:
        self.seen = list(tests)

    def details(self) -> dict[str, Any]:
        return {
            "router": {
                "name": "flat",
                "accuracy": 0.9,
                "confusion": [[9, 1], [1, 9]],
                "abstained": 0,
            },
            "oracle_router": {"balanced_accuracy_domain_mean": 0.99},
            "similarity": np.array([[1.0, 0.3], [0.3, 1.0]]),
            "tickets": [
                {
                    "id": i,
                    "cluster": name,
                    "parent": None,
                    "domain_counts": {name: 10},
                    "sparsity_target": 0.5,
                    "sparsity_reached": 0.5,
                    "similarity": None if i == 0 else 0.3,
                    "relaxations": 0,
                    "bytes": 100,
                    "layer_density": {"layer2": 0.4, "layer10": 0.6},
                }
                for i, name in enumerate(self.seen)
            ],
            "discovery": {
                "clusters_found": 2,
                "adjusted_rand_index": float("nan"),
                "false_alarms": 0,
            },
        }


class OfflineMethod(FakeMethod):
    name: ClassVar[str] = "fake_offline"
    protocol: ClassVar[Any] = "offline"
    needs_domain: ClassVar[bool] = True

    def learn_all(self) -> None:
        self.index = 0

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        assert domain == images.domains[0]
        return super().predict(images)

    def details(self) -> dict[str, Any]:
        return {}


class Fakes:
    """Registers ``fake`` and ``fake_offline``."""

    @hookimpl
    def register_methods(self) -> dict[str, Any]:
        return {"fake": FakeMethod, "fake_offline": OfflineMethod}


@pytest.fixture(autouse=True)
def fake_methods() -> Iterator[None]:
    """The fakes are there for one test."""
    get_manager().register(Fakes(), "fakes")
    yield
    get_manager().unregister("fakes")


@pytest.fixture
def tiny() -> str:
    """The text of a scenario with ``fake`` alone."""
    return SCENARIO


@pytest.fixture
def write_scenario(tmp_path: Path) -> Callable[..., Path]:
    """Writes a scenario file and returns its path."""

    def write(text: str = SCENARIO, name: str = "tiny.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
