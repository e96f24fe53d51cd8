"""Avalanche's own strategies as methods of a run: what one gets without tickets.

None of them sees the domain at test time. All start from the same pretrained backbone, make the
same passes over the same images and are asked in the same way.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EWCPlugin, ReplayPlugin
from avalanche.training.supervised import Naive, StreamingLDA
from avalanche.training.templates import SupervisedTemplate
from pydantic import Field
from torch.nn import functional as F

from rtl_continual.avalanche._benchmark import domain_benchmark
from rtl_continual.avalanche._random import same_random_state
from rtl_continual.avalanche._schedule import CosineRate, EpochReport
from rtl_continual.avalanche._setup import quiet_evaluator
from rtl_continual.runs import (
    Answers,
    DenseConfig,
    DenseModel,
    Method,
    MethodConfig,
    RunContext,
    count_floats,
    dense_optimizer,
    predict_labels,
)
from rtl_continual.streams import ImageSet

__all__ = [
    "EWCConfig",
    "EWCMethod",
    "NaiveMethod",
    "ReplayConfig",
    "ReplayMethod",
    "SLDAConfig",
    "SLDAMethod",
]


class ReplayConfig(DenseConfig):
    """Options of experience replay."""

    memory: int = Field(200, ge=0, description="images kept, over all experiences; 0 is naive")


class EWCConfig(DenseConfig):
    """Options of elastic weight consolidation."""

    ewc_lambda: float = Field(100.0, ge=0, description="weight of the penalty; 0 is naive")
    mode: Literal["separate", "online"] = Field(
        "separate", description="one penalty per experience, or one for all"
    )
    decay: float = Field(0.9, ge=0, le=1, description="of older importances, in mode online")


class SLDAConfig(MethodConfig):
    """Options of streaming linear discriminant analysis; it always makes a single pass."""

    shrinkage: float = Field(
        1e-4, ge=0, le=1, description="share of the identity in the covariance"
    )


ConfigT = TypeVar("ConfigT", bound=MethodConfig)
DenseT = TypeVar("DenseT", bound=DenseConfig)


class _AvalancheMethod(Method[ConfigT]):
    """A method whose learning is an Avalanche strategy's."""

    def __init__(self, context: RunContext, config: ConfigT) -> None:
        super().__init__(context, config)
        self.backbone = context.make_backbone()
        self.device = self.backbone.mean.device
        self.num_classes = len(context.stream.classes)
        self._experiences = domain_benchmark(context.stream).train_stream
        self.strategy = self._strategy()

    @abstractmethod
    def _strategy(self) -> SupervisedTemplate:
        """The strategy, ready to train."""

    @property
    @abstractmethod
    def _trainable(self) -> int:
        """Numbers that learning changes."""

    def learn(self, index: int) -> None:
        self.context.advance(f"experience {index + 1}")
        # Avalanche draws from the global generators; that must neither vary nor leak.
        with same_random_state(self.device):
            seed = (self.context.seed * 1009 + index) % 2**32
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            self.strategy.train(self._experiences[index], eval_streams=[])

    def parameters(self) -> dict[str, float]:
        backbone = count_floats(self.backbone.trunk, self.backbone.body)
        union = backbone + (self.backbone.feature_dim + 1) * self.num_classes
        separate = self.context.stream.learned_domains * union
        return {
            "backbone": backbone,
            "effective_union": union,
            "separate_models": separate,
            "ratio_vs_separate": separate / union,
            "bytes_on_disk": 4 * union,
            "trainable": self._trainable,
        }


class _DenseMethod(_AvalancheMethod[DenseT]):
    """Fine-tune one dense model, experience after experience."""

    def _plugins(self) -> list[SupervisedPlugin]:
        """What sets the method apart from plain fine-tuning."""
        return []

    def _strategy(self) -> SupervisedTemplate:
        model = DenseModel.configured(
            self.backbone, self.num_classes, self.context.seed, self.config
        )
        return Naive(
            model=model,
            optimizer=dense_optimizer(model, self.config),
            criterion=F.cross_entropy,
            train_mb_size=self.batch_size,
            train_epochs=self.epochs,
            device=self.device,
            plugins=[*self._plugins(), CosineRate(), EpochReport(self.context.advance)],
            evaluator=quiet_evaluator(),
        )

    def learn(self, index: int) -> None:
        targets = self.context.stream.experiences[index].train.targets
        self.strategy._criterion = self.config.loss(targets, self.num_classes)
        super().learn(index)

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        return Answers(labels=predict_labels(self.strategy.model.eval(), images))

    @property
    def _trainable(self) -> int:
        return sum(p.numel() for p in self.strategy.model.parameters() if p.requires_grad)


class NaiveMethod(_DenseMethod[DenseConfig]):
    """Fine-tuning without any measure against forgetting."""

    name: ClassVar[str] = "naive"
    summary: ClassVar[str] = "one dense model, fine-tuned in sequence"
    config_class = DenseConfig


class _Replay(ReplayPlugin):
    """Avalanche's, without the call it deprecates itself.

    That call warns after every experience and changes the process's warning filters.
    """

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.storage_policy.post_adapt(strategy, strategy.experience)


class ReplayMethod(_DenseMethod[ReplayConfig]):
    """Fine-tuning with a small memory of old images in every batch (Chaudhry et al., 2019)."""

    name: ClassVar[str] = "replay"
    summary: ClassVar[str] = "one dense model, fine-tuned with a memory of old images"
    config_class = ReplayConfig

    def _plugins(self) -> list[SupervisedPlugin]:
        return [_Replay(mem_size=self.config.memory)] if self.config.memory else []

    def details(self) -> dict[str, Any]:
        """The memory it needs beside its parameters."""
        first = self.context.stream.experiences[0].train
        image, _ = first.batch([0])
        return {
            "memory": {"images": self.config.memory, "bytes": self.config.memory * image.nbytes}
        }


class EWCMethod(_DenseMethod[EWCConfig]):
    """Fine-tuning held back where old experiences need the weights (Kirkpatrick et al., 2017)."""

    name: ClassVar[str] = "ewc"
    summary: ClassVar[str] = "one dense model, weights held by their importance"
    config_class = EWCConfig

    def _plugins(self) -> list[SupervisedPlugin]:
        online = self.config.mode == "online"
        return [
            EWCPlugin(
                self.config.ewc_lambda,
                mode=self.config.mode,
                decay_factor=self.config.decay if online else None,
            )
        ]


class _SinglePassLDA(StreamingLDA):
    """Avalanche's, without its answer to every training batch.

    That answer inverts the covariance each time, for a loss that nothing reads.
    """

    def predict(self, X: torch.Tensor) -> torch.Tensor:  # noqa: N803
        if self.is_training:
            return torch.zeros(len(X), len(self.muK), device=X.device)
        return super().predict(X)


class SLDAMethod(_AvalancheMethod[SLDAConfig]):
    """Streaming linear discriminant analysis on frozen features (Hayes and Kanan, 2020)."""

    name: ClassVar[str] = "slda"
    summary: ClassVar[str] = "frozen backbone, streaming linear discriminant analysis"
    config_class = SLDAConfig

    def _strategy(self) -> SupervisedTemplate:
        return _SinglePassLDA(
            slda_model=self.backbone,
            criterion=F.cross_entropy,
            input_size=self.backbone.feature_dim,
            num_classes=self.num_classes,
            shrinkage_param=self.config.shrinkage,
            train_epochs=1,
            train_mb_size=256,
            device=self.device,
            evaluator=quiet_evaluator(),
        )

    @torch.inference_mode()
    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        self.strategy.is_training = False
        labels = []
        for start in range(0, len(images), 256):
            batch, _ = images.batch(range(start, min(start + 256, len(images))))
            scores = self.strategy.predict(self.backbone(batch.to(self.device)))
            labels.append(scores.argmax(dim=1).cpu())
        return Answers(labels=torch.cat(labels).numpy())

    @property
    def _trainable(self) -> int:
        width = self.backbone.feature_dim
        return width * self.num_classes + width * width
