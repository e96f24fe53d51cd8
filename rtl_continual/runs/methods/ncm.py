"""Nearest class mean on frozen features: SimpleCIL."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from rtl_continual.runs._method import RunContext
from rtl_continual.runs.methods._closed_form import ClosedFormConfig, ClosedFormMethod

__all__ = ["NCMConfig", "NCMMethod"]


class NCMConfig(ClosedFormConfig):
    """Options of nearest class mean."""

    prototypes: Literal["class", "class_and_experience"] = Field(
        "class_and_experience",
        description="one mean per class over all experiences, or one for each experience, of which "
        "the most similar answers",
    )


class NCMMethod(ClosedFormMethod[NCMConfig]):
    """Cosine similarity to class means of frozen features (SimpleCIL).

    Zhou et al. (2024), "Revisiting Class-Incremental Learning with Pre-Trained Models:
    Generalizability and Adaptivity are All You Need".
    """

    name: ClassVar[str] = "ncm"
    summary: ClassVar[str] = "frozen backbone, nearest class mean (SimpleCIL)"
    config_class: ClassVar[type[NCMConfig]] = NCMConfig

    def __init__(self, context: RunContext, config: NCMConfig) -> None:
        super().__init__(context, config)
        self._sums: list[torch.Tensor] = []
        self._counts: list[torch.Tensor] = []

    def _absorb(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        sums = features.new_zeros(self.num_classes, features.shape[1]).double()
        sums.index_add_(0, targets, features.double())
        counts = torch.bincount(targets, minlength=self.num_classes)
        if self._sums and self.config.prototypes == "class":
            self._sums[0] += sums
            self._counts[0] += counts
        else:
            self._sums.append(sums)
            self._counts.append(counts)

    def _scores(self, features: torch.Tensor) -> torch.Tensor:
        x = F.normalize(features.double(), dim=1)
        best = x.new_full((len(x), self.num_classes), -2.0)
        for sums, counts in zip(self._sums, self._counts, strict=True):
            # The direction of a sum is that of its mean.
            similar = x @ F.normalize(sums, dim=1).T
            best = torch.maximum(best, similar.masked_fill(counts == 0, -2.0))
        return best

    def _stored(self) -> tuple[int, int]:
        numbers = sum(sums.numel() for sums in self._sums)
        return numbers, self.num_classes * self.backbone.feature_dim
