"""What a ticket remembers of its router features: a small Gaussian mixture, no images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch

from rtl_continual.errors import DataError

__all__ = ["FeatureMixture", "likelihood_level"]

_LOG_TWO_PI = math.log(2 * math.pi)

MIN_TO_HALVE = 40
"""With fewer samples, halves say nothing."""

HELD_OUT = 1024
"""At most so many samples are halved."""

CLUSTER_RANK = 64
"""Principal axes of a mixture for a cluster that may be small."""

SAMPLES_PER_COMPONENT = 150
"""Of such a mixture: a full covariance wants as many."""


class FeatureMixture:
    """A Gaussian mixture over router features, in a space of at most ``rank`` principal axes.

    Features are scaled to unit deviation, projected on the leading principal axes when there are
    more than ``rank`` of them, and described by full-covariance components there; what the axes
    leave out is independent noise of each feature. A component's covariance over the scaled
    features is then ``axes' C axes + diag(residual^2)``, and each feature keeps its variance.
    With few features nothing is left out and this is a plain full-covariance mixture. Sampling
    from it trains gates without stored images, as SOYO (Wang et al., 2025) does with final
    features.

    What lives in scaled features is of order one, so :meth:`fit` stores it in half precision;
    ``docs/routers.md`` has the measurements behind that and behind ``rank``. Mixtures stored in
    full precision, or with more axes, are read as they are.

    Args:
        tensors: the stored form; see :meth:`tensors`.

    Attributes:
        held_out: median and spread of the negative log-likelihood of samples that a mixture was
            not fitted to (see :meth:`fit`), ``None`` where they were not measured.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.center = tensors["center"].double()
        self.scale = tensors["scale"].double()
        self.axes = tensors["axes"].double() if "axes" in tensors else None
        self.residual = tensors["residual"].double() if "residual" in tensors else None
        self.weights = tensors["weights"].double()
        self._stored_as = tensors["means"].dtype
        self.means = tensors["means"].double()
        self.count = int(tensors["count"])
        self.held_out: tuple[float, float] | None = None
        if "held_out" in tensors:
            median, spread = tensors["held_out"].tolist()
            self.held_out = median, spread
        rank = self.means.shape[1]
        rows, columns = torch.tril_indices(rank, rank)
        self.cholesky = torch.zeros(len(self.weights), rank, rank, dtype=torch.float64)
        self.cholesky[:, rows, columns] = tensors["cholesky"].double()

    def __deepcopy__(self, memo: object) -> FeatureMixture:
        # A mixture never changes; routers that are copied share theirs.
        return self

    @classmethod
    def fit(
        cls,
        features: torch.Tensor,
        *,
        components: int = 2,
        rank: int = 32,
        ridge: float = 1e-3,
        tolerance: float = 1e-3,
        seed: int = 0,
        held_out: bool = False,
    ) -> FeatureMixture:
        """Fit to router features.

        Args:
            features: ``[samples, features]``.
            components: Gaussians; fewer if there are under ten samples for each.
            rank: at most so many principal axes.
            ridge: added to the variance of every (scaled) feature.
            tolerance: fitting ends when the mean log-likelihood gains less in a step.
            seed: of the initial assignment.
            held_out: measure, on two halves, how likely samples are that a mixture was not fitted
                to: with few samples it fits them better than any others. The halves' mixtures are
                those of :meth:`fit_cluster`. The spread runs from the median to the 90 %
                quantile, in units in which a normal distribution has spread 1.

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
            axes = torch.linalg.eigh(z.T @ z).eigenvectors[:, -min(rank, count) :].T
            projected = z @ axes.T
            stored["axes"] = axes
            stored["residual"] = (z - projected @ axes).pow(2).mean(dim=0).add(ridge).sqrt()
            z = projected
        k = max(1, min(components, count // 10))
        if count == 1:
            weights, means = torch.ones(1, dtype=torch.float64), z
            covariances = torch.eye(z.shape[1], dtype=torch.float64)[None]
        else:
            # Imported where it is needed: whoever opens a bank to predict fits nothing.
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.mixture import GaussianMixture

            model = GaussianMixture(
                k, tol=tolerance, reg_covar=ridge, random_state=seed, max_iter=200
            )
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
        if held_out and count >= MIN_TO_HALVE:
            stored["held_out"] = cls._held_out(x[-HELD_OUT:])
        raw = {"center", "scale", "weights", "held_out"}
        return cls(
            {
                k: (v.float() if k in raw else v.half()) if v.is_floating_point() else v
                for k, v in stored.items()
            }
        )

    @classmethod
    def fit_cluster(cls, features: torch.Tensor, *, held_out: bool = False) -> FeatureMixture:
        """:meth:`fit` for a cluster that may be small: fewer components and axes for fewer samples.

        Args:
            features: ``[samples, features]``.
            held_out: as of :meth:`fit`.
        """
        count = len(features)
        return cls.fit(
            features,
            components=min(4, max(1, count // SAMPLES_PER_COMPONENT)),
            rank=max(1, min(CLUSTER_RANK, count // 4)),
            ridge=1e-2,
            tolerance=1e-2,
            held_out=held_out,
        )

    @classmethod
    def _held_out(cls, x: torch.Tensor) -> torch.Tensor:
        """Median and spread ``[2]`` of each half's losses under the other half's mixture."""
        return likelihood_level(
            torch.cat([-cls.fit_cluster(x[1 - half :: 2]).log_prob(x[half::2]) for half in (0, 1)])
        )

    @property
    def width(self) -> int:
        """Number of router features."""
        return len(self.center)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The stored form; covariances as packed lower Cholesky factors.

        ``center``, ``scale``, ``weights`` and ``held_out`` are float32, the rest has the precision
        it was given in.
        """
        rank = self.means.shape[1]
        rows, columns = torch.tril_indices(rank, rank)
        stored = {
            "means": self.means,
            "cholesky": self.cholesky[:, rows, columns],
        }
        if self.axes is not None and self.residual is not None:
            stored |= {"axes": self.axes, "residual": self.residual}
        return {name: tensor.to(self._stored_as) for name, tensor in stored.items()} | {
            "center": self.center.float(),
            "scale": self.scale.float(),
            "weights": self.weights.float(),
            "count": torch.tensor(self.count),
            **({} if self.held_out is None else {"held_out": torch.tensor(self.held_out)}),
        }

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
        z = (features.detach().cpu().double() - self.center) / self.scale
        parts = [
            weight.log() + self._component(z, mean, factor)
            for weight, mean, factor in zip(self.weights, self.means, self.cholesky, strict=True)
        ]
        return torch.logsumexp(torch.stack(parts), dim=0) - self.scale.log().sum()

    def _component(self, z: torch.Tensor, mean: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Log density ``[batch]`` of scaled features under one Gaussian.

        With axes the covariance is ``W W' + diag(r^2)``, which Woodbury's identity inverts in the
        space of the axes: all that grows with the batch is two matrix products.
        """
        if self.axes is None or self.residual is None:
            white = torch.linalg.solve_triangular(factor, (z - mean).T, upper=False)
            spread = factor.diagonal().log().sum()
            return -0.5 * (white.square().sum(dim=0) + self.width * _LOG_TWO_PI) - spread
        loading = (self.axes.T @ factor) / self.residual[:, None]
        inner = torch.eye(loading.shape[1], dtype=loading.dtype) + loading.T @ loading
        inner_factor = torch.linalg.cholesky(inner)
        rest = (z - mean @ self.axes) / self.residual
        along = torch.linalg.solve_triangular(inner_factor, (rest @ loading).T, upper=False)
        distance = rest.square().sum(dim=1) - along.square().sum(dim=0)
        spread = inner_factor.diagonal().log().sum() + self.residual.log().sum()
        return -0.5 * (distance + self.width * _LOG_TWO_PI) - spread

    def _projected_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and covariance over the whole mixture, in the space of its components."""
        mean = self.weights @ self.means
        factors = (self.weights.sqrt()[:, None, None] * self.cholesky).transpose(0, 1).flatten(1)
        spread = self.weights.sqrt()[:, None] * (self.means - mean)
        return mean, factors @ factors.T + spread.T @ spread

    def merged(self) -> FeatureMixture:
        """One Gaussian with this mixture's mean and covariance."""
        mean, covariance = self._projected_moments()
        rows, columns = torch.tril_indices(len(mean), len(mean))
        return FeatureMixture(
            self.tensors()
            | {
                "weights": torch.ones(1),
                "means": mean[None].to(self._stored_as),
                "cholesky": torch.linalg.cholesky(covariance)[None, rows, columns].to(
                    self._stored_as
                ),
            }
        )

    def mean(self) -> torch.Tensor:
        """Mean of each feature ``[features]``, float64."""
        mean = self.weights @ self.means
        return self.center + self.scale * (mean if self.axes is None else mean @ self.axes)

    def covariance(self) -> torch.Tensor:
        """Covariance of the features over the whole mixture, ``[features, features]``, float64."""
        _, covariance = self._projected_moments()
        if self.axes is not None and self.residual is not None:
            covariance = self.axes.T @ covariance @ self.axes + torch.diag(self.residual.square())
        return self.scale[:, None] * covariance * self.scale

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of each feature over the whole mixture, both ``[features]``."""
        mean, covariance = self._projected_moments()
        if self.axes is not None and self.residual is not None:
            variance = ((covariance @ self.axes) * self.axes).sum(dim=0)
            return self.center + self.scale * (mean @ self.axes), self.scale.pow(2) * (
                variance + self.residual.pow(2)
            )
        return self.center + self.scale * mean, self.scale.pow(2) * covariance.diagonal()


def likelihood_level(losses: torch.Tensor) -> torch.Tensor:
    """Median and spread ``[2]`` of negative log-likelihoods ``[samples]``.

    The spread runs from the median to the 90 % quantile, in units in which a normal distribution
    has spread 1.
    """
    middle, high = torch.quantile(losses, torch.tensor([0.5, 0.9], dtype=losses.dtype))
    return torch.stack([middle, (high - middle) / 1.2816])
