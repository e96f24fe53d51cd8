"""A manager of its own for each test, routers to register, and fake installed distributions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field

from rtl_continual.errors import BankError
from rtl_continual.plugins import Manager, _manager, hookimpl
from rtl_continual.routing import FeatureMixture, Router, Routing


class MeanConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["mean"] = "mean"
    sharpness: float = Field(1.0, gt=0, description="of the softmax over distances")


class MeanRouter(Router):
    """Nearest mean; conforms."""

    name: ClassVar[str] = "mean"
    config_class: ClassVar[type[BaseModel]] = MeanConfig

    def __init__(self, config: MeanConfig | None = None) -> None:
        self.config = config or MeanConfig()
        self.means: list[torch.Tensor] = []

    @property
    def num_tickets(self) -> int:
        return len(self.means)

    def fit(
        self, statistics: Sequence[FeatureMixture], samples: Sequence[torch.Tensor] | None = None
    ) -> None:
        self.means = [mixture.moments()[0].float() for mixture in statistics]

    def add(self, statistics: FeatureMixture, samples: torch.Tensor | None = None) -> None:
        self.means = [*self.means, statistics.moments()[0].float()]

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        if not self.means:
            raise BankError("the router knows no ticket yet")
        gaps = features.detach().float()[:, None] - torch.stack(self.means)
        scores = -self.config.sharpness * gaps.square().mean(dim=2)
        confidence, ids = scores.softmax(dim=1).max(dim=1)
        return Routing(ids[:, None], torch.ones_like(confidence)[:, None], confidence)

    def flops(self) -> int:
        return 3 * sum(mean.numel() for mean in self.means)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"means": torch.stack(self.means)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.means = list(state["means"].clone())


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """The process's manager for one test: the built-in plugin and nothing else."""
    fresh = Manager()
    monkeypatch.setattr(_manager, "_manager", fresh)
    return fresh


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Make a distribution with one module and one entry point importable."""

    modules: list[str] = []

    def make(name: str, version: str, code: str, *, entry: str = "") -> None:
        module = name.replace("-", "_")
        folder = tmp_path / "site"
        facts = folder / f"{module}-{version}.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
        )
        (facts / "entry_points.txt").write_text(
            f"[rtl_continual]\n{name} = {entry or module}\n", encoding="utf-8"
        )
        (folder / f"{module}.py").write_text(code, encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        modules.append(module)

    yield make
    for module in modules:
        sys.modules.pop(module, None)


def values_of(**hooks: Any) -> Any:
    """A plugin whose registration hooks return these values."""

    def give(value: Any) -> Callable[[], Any]:
        return hookimpl(lambda: value)

    return SimpleNamespace(**{name: give(value) for name, value in hooks.items()})
