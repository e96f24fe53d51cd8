"""A frozen backbone, one linear head per experience on its final features, and our router."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch.nn import functional as F

from rtl_continual.backbones import backbone_flops
from rtl_continual.errors import DataError, RTLError
from rtl_continual.routing import FeatureMixture, build_router
from rtl_continual.runs._method import Answers, Method, MethodConfig, RunContext
from rtl_continual.runs.methods._dense import count_floats
from rtl_continual.runs.methods._frozen import frozen_features
from rtl_continual.streams import ImageSet
from rtl_continual.training import balanced_loss, solve_linear

__all__ = ["LinearProbeConfig", "LinearProbeMethod"]


class LinearProbeConfig(MethodConfig):
    """Options of the linear probe. Its heads are solved to the optimum, not for some epochs."""

    weight_decay: float = Field(
        3e-3, ge=0, description="half of it times the squared (standardised) weights is penalised"
    )
    shrinkage: float = Field(
        1.0, gt=0, le=1, description="of the whitening of features, as head_shrinkage of tickets"
    )
    class_balance: float = Field(
        0.0, ge=0, le=4, description="weight of the adjustment for rare classes, as of tickets"
    )
    iterations: int = Field(200, ge=1, description="at most so many L-BFGS iterations per head")

    @model_validator(mode="after")
    def _no_steps(self) -> LinearProbeConfig:
        if self.epochs is not None or self.batch_size is not None:
            raise ValueError("heads are solved to the optimum: no epochs or batch_size to set")
        return self


class LinearProbeMethod(Method[LinearProbeConfig]):
    """Multinomial logistic regression on frozen features, one per experience.

    The router is the run's own, on the same trunk statistics, and grows from the same mixtures as
    with tickets: what tickets add over this is what masks are worth.
    """

    name: ClassVar[str] = "linear_probe"
    summary: ClassVar[str] = "frozen backbone, one linear head per domain, our router"
    config_class: ClassVar[type[LinearProbeConfig]] = LinearProbeConfig

    def __init__(self, context: RunContext, config: LinearProbeConfig) -> None:
        super().__init__(context, config)
        self.backbone = context.make_backbone()
        self.router = build_router(context.sections["router"])
        self.heads: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.mixtures: list[FeatureMixture] = []

    def learn(self, index: int) -> None:
        data = self.context.stream.experiences[index].train
        if len(data) == 0:
            raise DataError("cannot learn from an empty data set")
        features, statistics = self._features(data, "train")
        targets = torch.as_tensor(data.targets).to(features.device)
        self.context.advance("solving the head")
        classes = len(self.context.stream.classes)
        self.heads.append(_solve_head(features, targets, classes, self.config))
        components = self.context.sections["tickets"].mixture_components
        self.mixtures.append(
            FeatureMixture.fit(statistics, components=components, seed=self.context.seed)
        )
        self.router.add(self.mixtures[-1])

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        if not self.heads:
            raise RTLError("linear_probe has learned nothing yet; learn an experience first")
        features, statistics = self._features(images, "eval")
        routing = self.router.route(statistics, budget=1)
        ids = routing.ticket_ids[:, 0].to(features.device)
        labels = torch.full_like(ids, -1)
        for number, (weight, bias) in enumerate(self.heads):
            mine = ids == number
            labels[mine] = (features[mine] @ weight.T + bias).argmax(dim=1)
        return Answers(
            labels=labels.cpu().numpy(),
            ticket_ids=ids.cpu().numpy(),
            confidence=routing.confidence.cpu().numpy(),
        )

    def _features(self, images: ImageSet, purpose: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Final features ``[n, feature_dim]`` and router features of a whole set."""
        found = frozen_features(self.backbone, images)
        self.borrowed_seconds[purpose] += found.borrowed_seconds
        return found.final, found.statistics

    def inference_ratio(self) -> float:
        return 1 + self.router.flops() / backbone_flops(self.backbone)["total"]

    def parameters(self) -> dict[str, float]:
        backbone = count_floats(self.backbone.trunk, self.backbone.body)
        head = (self.backbone.feature_dim + 1) * len(self.context.stream.classes)
        gate = sum(t.numel() for t in self.router.state_dict().values())
        stored = backbone + len(self.heads) * head + gate
        separate = self.context.stream.learned_domains * (backbone + head)
        mixtures = sum(t.nbytes for m in self.mixtures for t in m.tensors().values())
        return {
            "backbone": backbone,
            "effective_union": stored,
            "separate_models": separate,
            "ratio_vs_separate": separate / stored,
            "bytes_on_disk": 4 * stored + mixtures,
            "trainable": head + gate,
        }


def _solve_head(
    features: torch.Tensor, targets: torch.Tensor, classes: int, config: LinearProbeConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight ``[classes, features]`` and bias ``[classes]`` for raw features."""
    return solve_linear(
        features,
        targets,
        classes,
        loss=balanced_loss(F.cross_entropy, targets, classes, config.class_balance),
        weight_decay=config.weight_decay,
        shrinkage=config.shrinkage,
        iterations=config.iterations,
    )
