"""A linear head solved to its optimum."""

from __future__ import annotations

import torch

from rtl_continual.errors import DataError
from rtl_continual.training._balance import Loss

__all__ = ["solve_linear"]


@torch.enable_grad()
def solve_linear(
    features: torch.Tensor,
    targets: torch.Tensor,
    outputs: int,
    *,
    loss: Loss,
    weight_decay: float,
    iterations: int,
    shrinkage: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear head with the least loss, for raw features.

    With a convex loss the answer depends on neither a seed nor a rate. It is solved in float64 on
    standardised features, in the samples' span where there are fewer samples than features.

    With a ``shrinkage`` below 1 a weight costs more along directions in which samples of one class
    differ from each other: features are whitened by their covariance within classes (Hatch et al.,
    2006, "Within-class covariance normalization for SVM-based speaker recognition"), drawn towards
    a multiple of the identity, as it is known from few samples (Ledoit and Wolf, 2004).

    Args:
        features: ``[n, features]``.
        targets: of the loss.
        outputs: rows of the weight.
        loss: of outputs and targets, a mean over samples.
        weight_decay: half of it times the squared weights (of standardised or whitened features of
            unit mean square) is penalised.
        iterations: at most so many of L-BFGS.
        shrinkage: share of the identity; 1 does not whiten.

    Returns:
        Weight ``[outputs, features]`` and bias ``[outputs]``.

    Raises:
        DataError: if features are to be whitened and the targets are no classes.
    """
    x = features.double()
    width = x.shape[1]
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-6)
    x = (x - mean) / scale
    axes = factor = None
    if len(x) < width:
        # No weight outside the samples' span changes an output; the decay holds those at zero.
        axes, coordinates = torch.linalg.qr(x.T)
        x = coordinates.T.contiguous()
    if shrinkage < 1:
        factor = _within_class_factor(x, targets, shrinkage, width)
        x = torch.linalg.solve_triangular(factor, x.T, upper=False).T
        size = x.square().sum().div(len(x) * width).sqrt()
        x, factor = (x / size).contiguous(), factor * size
    weight = torch.zeros(outputs, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(outputs, dtype=x.dtype, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        total = loss(x @ weight.T + bias, targets)
        total = total + 0.5 * weight_decay * weight.pow(2).sum()
        total.backward()
        return total

    solver.step(closure)
    solved = weight.detach()
    if factor is not None:
        solved = torch.linalg.solve_triangular(factor, solved, upper=False, left=False)
    if axes is not None:
        solved = solved @ axes.T
    folded = solved / scale
    return folded.float(), (bias.detach() - folded @ mean).float()


def _within_class_factor(
    x: torch.Tensor, targets: torch.Tensor, shrinkage: float, width: int
) -> torch.Tensor:
    """Cholesky factor of the shrunk covariance within classes.

    Args:
        x: standardised features ``[n, axes]``, or their coordinates in the samples' span.
        targets: classes ``int64 [n]``.
        shrinkage: share of the identity, which has the covariance's mean variance.
        width: number of features, of which ``axes`` may be a part.
    """
    if targets.ndim != 1 or targets.is_floating_point():
        raise DataError(
            "head_shrinkage below 1 whitens features within classes and needs one class label for "
            "each sample; leave it at 1 for other targets"
        )
    classes, rows = targets.unique(return_inverse=True)
    sums = x.new_zeros(len(classes), x.shape[1]).index_add_(0, rows, x)
    apart = x - (sums / rows.bincount()[:, None])[rows]
    covariance = (1 - shrinkage) / len(x) * (apart.T @ apart)
    variance = apart.square().sum() / (len(x) * width)
    covariance.diagonal().add_(shrinkage * variance.clamp_min(1e-12))
    return torch.linalg.cholesky(covariance)
