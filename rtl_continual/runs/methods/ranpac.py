"""Ridge regression on random projections of frozen features: RanPAC."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch.nn import functional as F

from rtl_continual.backbones import backbone_flops
from rtl_continual.runs._method import RunContext
from rtl_continual.runs.methods._closed_form import ClosedFormConfig, ClosedFormMethod

__all__ = ["RanPACConfig", "RanPACMethod"]

_RIDGES = tuple(10.0**power for power in range(-2, 9))
_FIT_SHARE = 0.8


class RanPACConfig(ClosedFormConfig):
    """Options of RanPAC."""

    projection: int = Field(
        2000, ge=0, description="random features; 0 takes the frozen features as they are"
    )
    ridge: float | None = Field(
        None, gt=0, description="penalty; none chooses it on a fifth of each experience"
    )


class RanPACMethod(ClosedFormMethod[RanPACConfig]):
    """Class prototypes decorrelated by their second moments, after a random projection.

    McDonnell et al. (2023), "RanPAC: Random Projections and Pre-trained Models for Continual
    Learning", without the paper's first-session adaptation, which fine-tunes the backbone; with
    2,000 random features where the paper has 10,000. The sums over all experiences give the same
    classifier as all data at once.
    """

    name: ClassVar[str] = "ranpac"
    summary: ClassVar[str] = "frozen backbone, ridge regression on random projections (RanPAC)"
    config_class: ClassVar[type[RanPACConfig]] = RanPACConfig

    def __init__(self, context: RunContext, config: RanPACConfig) -> None:
        super().__init__(context, config)
        width, size = self.backbone.feature_dim, config.projection
        device = self.backbone.mean.device
        self._project: torch.Tensor | None = None
        if size:
            generator = torch.Generator().manual_seed(context.seed)
            self._project = torch.randn(width, size, generator=generator).to(device)
        size = size or width
        self._gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        self._moments = torch.zeros(size, self.num_classes, dtype=torch.float64, device=device)
        self._weight = torch.zeros(size, self.num_classes, device=device)
        self._generator = torch.Generator().manual_seed(context.seed + 1)
        self.ridge = config.ridge or _RIDGES[0]

    def _hidden(self, features: torch.Tensor) -> torch.Tensor:
        hidden = features if self._project is None else torch.relu(features @ self._project)
        return hidden.double()

    def _absorb(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        x = self._hidden(features)
        y = F.one_hot(targets, self.num_classes).double()
        if self.config.ridge is None:
            self.ridge = self._choose_ridge(x, y)
        self._gram += x.T @ x
        self._moments += x.T @ y
        self._weight = _solve(self._gram, self._moments, self.ridge).float()

    def _choose_ridge(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """The penalty with the least squared error on a fifth of the new experience."""
        order = torch.randperm(len(x), generator=self._generator).to(x.device)
        fit, rest = order.split([round(_FIT_SHARE * len(x)), len(x) - round(_FIT_SHARE * len(x))])
        if not len(rest):
            return self.ridge
        gram, moments = x[fit].T @ x[fit], x[fit].T @ y[fit]
        errors = [
            float((x[rest] @ _solve(gram, moments, ridge) - y[rest]).pow(2).mean())
            for ridge in _RIDGES
        ]
        return _RIDGES[min(range(len(errors)), key=errors.__getitem__)]

    def _scores(self, features: torch.Tensor) -> torch.Tensor:
        return self._hidden(features).float() @ self._weight

    def _stored(self) -> tuple[int, int]:
        projection = 0 if self._project is None else self._project.numel()
        return projection + self._weight.numel(), self._gram.numel() + self._moments.numel()

    def inference_ratio(self) -> float:
        extra = 0 if self._project is None else self._project.numel()
        return 1 + (extra + self._weight.numel()) / backbone_flops(self.backbone)["total"]


def _solve(gram: torch.Tensor, moments: torch.Tensor, ridge: float) -> torch.Tensor:
    penalty = ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + penalty, moments)
