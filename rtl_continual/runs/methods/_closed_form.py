"""What rivals without gradient steps share: one pass over frozen features, no domain anywhere."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import torch
from pydantic import model_validator

from rtl_continual.errors import DataError, RTLError
from rtl_continual.runs._method import Answers, Method, MethodConfig, RunContext
from rtl_continual.runs.methods._dense import count_floats
from rtl_continual.runs.methods._frozen import frozen_features
from rtl_continual.streams import ImageSet

__all__ = ["ClosedFormConfig", "ClosedFormMethod"]


class ClosedFormConfig(MethodConfig):
    """Options of a method that makes a single pass."""

    @model_validator(mode="after")
    def _no_steps(self) -> ClosedFormConfig:
        if self.epochs is not None or self.batch_size is not None:
            raise ValueError("a single pass is all it makes: no epochs or batch_size to set")
        return self


ConfigT = TypeVar("ConfigT", bound=ClosedFormConfig)


class ClosedFormMethod(Method[ConfigT]):
    """Sums over frozen features, from which a classifier is solved."""

    def __init__(self, context: RunContext, config: ConfigT) -> None:
        super().__init__(context, config)
        self.backbone = context.make_backbone()
        self.num_classes = len(context.stream.classes)
        self._learned = False

    @abstractmethod
    def _absorb(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Take in an experience: ``[n, feature_dim]`` and labels ``[n]``."""

    @abstractmethod
    def _scores(self, features: torch.Tensor) -> torch.Tensor:
        """``[n, classes]`` for features ``[n, feature_dim]``; the largest wins."""

    @abstractmethod
    def _stored(self) -> tuple[int, int]:
        """Numbers that serving needs beside the backbone, and numbers that learning changes."""

    def learn(self, index: int) -> None:
        data = self.context.stream.experiences[index].train
        if len(data) == 0:
            raise DataError("cannot learn from an empty data set")
        found = frozen_features(self.backbone, data)
        self.borrowed_seconds["train"] += found.borrowed_seconds
        self._absorb(found.final, torch.as_tensor(data.targets).to(found.final.device))
        self._learned = True

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        if not self._learned:
            raise RTLError(f"{self.name} has learned nothing yet; learn an experience first")
        found = frozen_features(self.backbone, images)
        self.borrowed_seconds["eval"] += found.borrowed_seconds
        return Answers(labels=self._scores(found.final).argmax(dim=1).cpu().numpy())

    def parameters(self) -> dict[str, float]:
        backbone = count_floats(self.backbone.trunk, self.backbone.body)
        served, trained = self._stored()
        head = (self.backbone.feature_dim + 1) * self.num_classes
        separate = self.context.stream.learned_domains * (backbone + head)
        return {
            "backbone": backbone,
            "effective_union": backbone + served,
            "separate_models": separate,
            "ratio_vs_separate": separate / (backbone + served),
            "bytes_on_disk": 4 * (backbone + served),
            "trainable": trained,
        }
