"""One dense network that sees all data at once: what a stream costs is what it loses to this."""

from __future__ import annotations

from typing import ClassVar

from rtl_continual.runs._method import Answers, Method, RunContext
from rtl_continual.runs.methods._dense import (
    DenseConfig,
    DenseModel,
    count_floats,
    predict_labels,
    train_dense,
)
from rtl_continual.streams import ImageSet, concatenate

__all__ = ["JointMethod"]


class JointMethod(Method[DenseConfig]):
    """One fine-tuned copy of the backbone, trained on every experience together."""

    name: ClassVar[str] = "joint"
    summary: ClassVar[str] = "one dense network, all data at once"
    config_class: ClassVar[type[DenseConfig]] = DenseConfig
    protocol = "offline"

    def __init__(self, context: RunContext, config: DenseConfig) -> None:
        super().__init__(context, config)
        self.backbone = context.make_backbone()
        self.model = DenseModel.configured(
            self.backbone, len(context.stream.classes), context.seed, config
        ).eval()

    def learn_all(self) -> None:
        train_dense(
            self.model,
            concatenate([experience.train for experience in self.context.stream.experiences]),
            self.config,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.context.seed,
            advance=self.context.advance,
        )

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        return Answers(labels=predict_labels(self.model, images))

    def parameters(self) -> dict[str, float]:
        stored = count_floats(self.model)
        separate = self.context.stream.learned_domains * stored
        return {
            "backbone": count_floats(self.backbone.trunk, self.backbone.body),
            "effective_union": stored,
            "separate_models": separate,
            "ratio_vs_separate": separate / stored,
            "bytes_on_disk": 4 * stored,
            "trainable": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
        }
