"""The upper reference: a dense network of its own for every domain, and an oracle to choose it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rtl_continual.errors import RTLError
from rtl_continual.runs._method import Answers, Method, RunContext
from rtl_continual.runs.methods._dense import (
    DenseConfig,
    DenseModel,
    count_floats,
    count_trainable,
    predict_labels,
    train_dense,
)
from rtl_continual.streams import ImageSet

__all__ = ["IndependentMethod"]


class IndependentMethod(Method[DenseConfig]):
    """One fine-tuned copy of the backbone per experience.

    At test time the domain is given, and the copy answers whose experience held the most training
    images of that domain (the first of equals). Where domains and experiences are the same this is
    the domain's own copy; where a stream mixes domains it is the oracle's best guess. A domain
    that no experience has brought yet goes to the newest copy.
    """

    name: ClassVar[str] = "independent"
    summary: ClassVar[str] = "one dense network per domain, the domain known at test time"
    config_class: ClassVar[type[DenseConfig]] = DenseConfig
    needs_domain: ClassVar[bool] = True

    def __init__(self, context: RunContext, config: DenseConfig) -> None:
        super().__init__(context, config)
        self.backbone = context.make_backbone()
        self.models: list[DenseModel] = []
        # Training images by model and domain; read by the oracle alone.
        self._counts: list[np.ndarray] = []

    def learn(self, index: int) -> None:
        stream = self.context.stream
        data = stream.experiences[index].train
        model = DenseModel.configured(
            self.backbone, len(stream.classes), self.context.seed, self.config
        )
        train_dense(
            model,
            data,
            self.config,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.context.seed,
            advance=self.context.advance,
        )
        self.models.append(model)
        self._counts.append(np.bincount(data.domains, minlength=len(stream.domains)))

    def model_for(self, domain: int) -> int:
        """Index of the model that the oracle gives to a domain."""
        counts = [int(c[domain]) for c in self._counts]
        return int(np.argmax(counts)) if max(counts) else len(counts) - 1

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        if domain is None:
            raise RTLError("independent has a network per domain: it cannot answer without one")
        if not self.models:
            raise RTLError("independent has learned nothing yet; learn an experience first")
        return Answers(labels=predict_labels(self.models[self.model_for(domain)], images))

    def parameters(self) -> dict[str, float]:
        backbone = count_floats(self.backbone.trunk, self.backbone.body)
        head = (self.backbone.feature_dim + 1) * len(self.context.stream.classes)
        one = backbone + head
        stored = max(1, len(self.models)) * one
        separate = self.context.stream.learned_domains * one
        return {
            "backbone": backbone,
            "effective_union": stored,
            "separate_models": separate,
            "ratio_vs_separate": separate / stored,
            "bytes_on_disk": 4 * stored,
            "trainable": count_trainable(self.backbone) + head,
        }
