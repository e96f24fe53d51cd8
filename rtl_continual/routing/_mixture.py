"""What a ticket remembers of its router features: a small Gaussian mixture, no images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from rtl_continual.errors import DataError

__all__ = ["FeatureMixture"]


class FeatureMixture:
    """A Gaussian mixture over router features, in a space of at most ``rank`` principal axes.

    Features are scaled to unit deviation, projected on the leading principal axes when there are
    more than ``rank`` of them, and described by full-covariance components there; what the axes
    leave out is independent noise per feature. With few features nothing is left out and this is
    a plain full-covariance mixture. Sampling from it trains gates without stored images, as SOYO
    (Wang et al., 2025) does with final features.

    Args:
        tensors: the stored form; see :meth:`tensors`.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.center = tensors["center"].double()
        self.scale = tensors["scale"].double()
        self.axes = tensors["axes"].double() if "axes" in tensors else None
        self.residual = tensors["residual"].double() if "residual" in tensors else None
        self.weights = tensors["weights"].double()
        self.means = tensors["means"].double()
        self.count = int(tensors["count"])
        rank = self.means.shape[1]
        rows, columns = torch.tril_indices(rank, rank)
        self.cholesky = torch.zeros(len(self.weights), rank, rank, dtype=torch.float64)
        self.cholesky[:, rows, columns] = tensors["cholesky"].double()

    @classmethod
    def fit(
        cls,
        features: torch.Tensor,
        *,
        components: int = 2,
        rank: int = 64,
        ridge: float = 1e-3,
        seed: int = 0,
    ) -> FeatureMixture:
        """Fit to router features.

        Args:
            features: ``[samples, features]``.
            components: Gaussians; fewer if there are under ten samples for each.
            rank: at most so many principal axes.
            ridge: added to the variance of every (scaled) feature.
            seed: of the initial assignment.

        Raises:
            DataError: without samples, or if a feature is not finite.
        """
        x = features.detach().cpu().double()
        if x.ndim != 2 or len(x) == 0:
            raise DataError(f"router features must be [samples, features], got {list(x.shape)}")
        bad = torch.nonzero(~torch.isfinite(x).all(dim=1)).flatten()
        if len(bad):
            raise DataError(f"router features of sample {int(bad[0])} are not finite")
        count, width = x.shape
        center = x.mean(dim=0)
        # A feature that never varies (a dead channel, a single sample) gets a scale all the same.
        scale = x.std(dim=0, correction=0).clamp_min(1e-3 * (1 + center.abs()))
        z = (x - center) / scale
        stored = {"center": center, "scale": scale, "count": torch.tensor(count)}
        if width > rank:
            pca = PCA(n_components=min(rank, count), svd_solver="full").fit(z.numpy())
            axes = torch.from_numpy(pca.components_)
            projected = z @ axes.T
            stored["axes"] = axes
            stored["residual"] = (z - projected @ axes).pow(2).mean(dim=0).add(ridge).sqrt()
            z = projected
        k = max(1, min(components, count // 10))
        if count == 1:
            weights, means = torch.ones(1, dtype=torch.float64), z
            covariances = torch.eye(z.shape[1], dtype=torch.float64)[None]
        else:
            model = GaussianMixture(k, reg_covar=ridge, random_state=seed, max_iter=200)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(z.numpy())
            weights = torch.from_numpy(model.weights_)
            means = torch.from_numpy(model.means_)
            covariances = torch.from_numpy(model.covariances_)
        size = z.shape[1]
        rows, columns = torch.tril_indices(size, size)
        stored["weights"] = weights
        stored["means"] = means
        stored["cholesky"] = torch.linalg.cholesky(covariances)[:, rows, columns]
        return cls({k: v.float() if v.is_floating_point() else v for k, v in stored.items()})

    @property
    def width(self) -> int:
        """Number of router features."""
        return len(self.center)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The stored form, float32; covariances as packed lower Cholesky factors."""
        rank = self.means.shape[1]
        rows, columns = torch.tril_indices(rank, rank)
        stored = {
            "center": self.center.float(),
            "scale": self.scale.float(),
            "weights": self.weights.float(),
            "means": self.means.float(),
            "cholesky": self.cholesky[:, rows, columns].float(),
            "count": torch.tensor(self.count),
        }
        if self.axes is not None and self.residual is not None:
            stored |= {"axes": self.axes.float(), "residual": self.residual.float()}
        return stored

    def sample(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draw ``[count, features]``, float64."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], dtype=torch.float64, generator=generator)
        z = self.means[component] + torch.einsum("nij,nj->ni", self.cholesky[component], noise)
        if self.axes is not None and self.residual is not None:
            extra = torch.randn(count, self.width, dtype=torch.float64, generator=generator)
            z = z @ self.axes + extra * self.residual
        return self.center + z * self.scale

    def log_prob(self, features: torch.Tensor) -> torch.Tensor:
        """Log density ``[batch]`` of features ``[batch, features]``."""
        z = (features.double() - self.center) / self.scale
        constant = self.scale.log().sum()
        residual_energy = torch.zeros(len(z), dtype=torch.float64)
        if self.axes is not None and self.residual is not None:
            projected = z @ self.axes.T
            left = (z - projected @ self.axes) / self.residual
            # The leftover lives in the complement of the axes: width - rank dimensions.
            share = (self.width - self.axes.shape[0]) / self.width
            residual_energy = 0.5 * left.pow(2).sum(dim=1)
            constant = constant + share * self.residual.log().sum()
            constant = constant + 0.5 * (self.width - self.axes.shape[0]) * math.log(2 * math.pi)
            z = projected
        terms = []
        for weight, mean, factor in zip(self.weights, self.means, self.cholesky, strict=True):
            solved = torch.linalg.solve_triangular(factor, (z - mean).T, upper=False)
            log_det = factor.diagonal().log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
            terms.append(weight.log() - 0.5 * solved.pow(2).sum(dim=0) - log_det)
        return torch.logsumexp(torch.stack(terms), dim=0) - residual_energy - constant

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of each feature over the whole mixture, both ``[features]``."""
        mean = (self.weights[:, None] * self.means).sum(dim=0)
        spread = self.means - mean
        second = torch.einsum("k,kij,klj->il", self.weights, self.cholesky, self.cholesky)
        covariance = second + torch.einsum("k,ki,kj->ij", self.weights, spread, spread)
        if self.axes is not None and self.residual is not None:
            variance = torch.einsum("ri,rs,si->i", self.axes, covariance, self.axes)
            return self.center + self.scale * (mean @ self.axes), self.scale.pow(2) * (
                variance + self.residual.pow(2)
            )
        return self.center + self.scale * mean, self.scale.pow(2) * covariance.diagonal()
