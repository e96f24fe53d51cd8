"""Linear heads that are solved to their optimum."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rtl_continual.errors import DataError
from rtl_continual.training import solve_linear


def solve(
    x: torch.Tensor, targets: torch.Tensor, shrinkage: float, decay: float = 0.1
) -> tuple[torch.Tensor, torch.Tensor]:
    return solve_linear(
        x,
        targets,
        3,
        loss=F.cross_entropy,
        weight_decay=decay,
        iterations=300,
        shrinkage=shrinkage,
    )


def samples(count: int, features: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, features, generator=draw), torch.arange(count) % 3


def test_it_is_the_optimum() -> None:
    x, targets = samples(30, 80)
    weight, bias = solve(x, targets, 1.0)
    scale = x.std(dim=0, correction=0)
    standardised, bias = (weight * scale).requires_grad_(), bias.requires_grad_()
    outputs = x @ (standardised / scale).T + bias
    loss = F.cross_entropy(outputs, targets) + 0.05 * standardised.square().sum()
    gradients = torch.autograd.grad(loss, (standardised, bias))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-4


@pytest.mark.parametrize("shrinkage", [1.0, 0.5])
def test_samples_that_are_fewer_than_features_give_what_their_copies_give(shrinkage: float) -> None:
    x, targets = samples(30, 80)
    few = solve(x, targets, shrinkage)
    copies = solve(x.repeat(4, 1), targets.repeat(4), shrinkage)
    for one, other in zip(few, copies, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [30, 200])
def test_without_whitening_nothing_changes(count: int) -> None:
    x, targets = samples(count, 80)
    for one, other in zip(solve(x, targets, 1.0), solve(x, targets, 1 - 1e-9), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_whitening_discounts_what_differs_within_classes() -> None:
    across = torch.randn(20, 60, generator=torch.Generator().manual_seed(0))
    signal = torch.randn(3, 60, generator=torch.Generator().manual_seed(1))

    def draw(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, targets = samples(count, 60, seed)
        nuisance, _ = samples(count, 20, seed + 100)
        return 0.5 * x + nuisance @ across + 0.5 * signal[targets], targets

    x, targets = draw(60, 0)
    held_out, labels = draw(600, 1)
    right = {}
    for shrinkage in (1.0, 0.1):
        weight, bias = solve(x, targets, shrinkage, decay=0.01)
        right[shrinkage] = float(((held_out @ weight.T + bias).argmax(1) == labels).float().mean())
    assert right[0.1] > right[1.0] + 0.05


def test_whitening_needs_classes() -> None:
    x, _ = samples(30, 8)
    with pytest.raises(DataError, match="head_shrinkage"):
        solve_linear(
            x,
            torch.rand(30, 3),
            3,
            loss=F.mse_loss,
            weight_decay=0.1,
            iterations=5,
            shrinkage=0.5,
        )
