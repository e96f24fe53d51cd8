from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from rtl_continual.errors import DataError
from rtl_continual.routing import FeatureMixture


def two_clusters(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Correlated features of very different scales, in two clusters."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    x = torch.randn(count, width, generator=generator) @ mixing
    x[: count // 3] += 4 * torch.randn(width, generator=generator)
    return x * torch.logspace(-2, 2, width) + 5


def written_out(mixture: FeatureMixture) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Weight, mean and covariance of each component over raw features, from the stored form."""
    stored = {name: tensor.double().numpy() for name, tensor in mixture.tensors().items()}
    components = []
    for k, weight in enumerate(stored["weights"]):
        mean = stored["means"][k]
        factor = np.zeros((len(mean), len(mean)))
        factor[np.tril_indices(len(mean))] = stored["cholesky"][k]
        covariance = factor @ factor.T
        if "axes" in stored:
            axes = stored["axes"]
            mean = mean @ axes
            covariance = axes.T @ covariance @ axes + np.diag(stored["residual"] ** 2)
        scale = stored["scale"]
        raw = covariance * np.outer(scale, scale)
        components.append((float(weight), stored["center"] + mean * scale, raw))
    return components


# 6 features are described in full, 30 on their 8 leading axes.
CASES = pytest.mark.parametrize(("width", "rank"), [(6, 64), (30, 8)], ids=["full", "axes"])


@CASES
def test_log_prob_is_the_density_of_the_mixture(width: int, rank: int) -> None:
    x = two_clusters(300, width)
    mixture = FeatureMixture.fit(x, components=3, rank=rank)
    probe = torch.cat([x[:20], x[:20] * 1.5, x.mean(dim=0, keepdim=True)]).double()
    density = sum(
        weight * multivariate_normal(mean, covariance, allow_singular=False).pdf(probe.numpy())
        for weight, mean, covariance in written_out(mixture)
    )
    found = mixture.log_prob(probe)
    assert found.shape == (41,)
    near = density > 0
    np.testing.assert_allclose(found.numpy()[near], np.log(density[near]), rtol=1e-6, atol=1e-6)
    assert near[:20].all()


@CASES
def test_moments_are_those_of_the_mixture_and_of_the_data(width: int, rank: int) -> None:
    x = two_clusters(400, width).double()
    mixture = FeatureMixture.fit(x, components=2, rank=rank, ridge=1e-4)
    mean, variance = mixture.moments()
    parts = written_out(mixture)
    expected = sum(w * m for w, m, _ in parts)
    spread = sum(w * (np.diag(c) + (m - expected) ** 2) for w, m, c in parts)
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(variance, spread, rtol=1e-5)
    # What the axes leave out is put back as noise, so every feature keeps its own variance.
    # Half precision rounds means to a thousandth of a deviation or so.
    assert ((mean - x.mean(dim=0)).abs() < 2e-3 * x.std(dim=0)).all()
    torch.testing.assert_close(variance, x.var(dim=0, correction=0), rtol=0.01, atol=0)


@CASES
def test_samples_have_the_moments(width: int, rank: int) -> None:
    mixture = FeatureMixture.fit(two_clusters(300, width), components=2, rank=rank)
    drawn = mixture.sample(20_000, torch.Generator().manual_seed(1))
    assert drawn.shape == (20_000, width)
    mean, variance = mixture.moments()
    deviation = variance.sqrt()
    assert ((drawn.mean(dim=0) - mean).abs() < 0.04 * deviation).all()
    torch.testing.assert_close(drawn.std(dim=0), deviation, rtol=0.04, atol=0)
    parts = written_out(mixture)
    expected = sum(w * m for w, m, _ in parts)
    covariance = sum(w * (c + np.outer(m - expected, m - expected)) for w, m, c in parts)
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    np.testing.assert_allclose(np.corrcoef(drawn.numpy().T), correlation, atol=0.05)


def test_the_same_generator_gives_the_same_samples() -> None:
    mixture = FeatureMixture.fit(two_clusters(100, 5))
    first, second = (mixture.sample(7, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, mixture.sample(7, torch.Generator().manual_seed(4)))


def test_each_cluster_gets_a_component() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator)
    x[:50] += 20
    mixture = FeatureMixture.fit(x, components=2)
    assert sorted(mixture.weights.tolist()) == pytest.approx([0.25, 0.75], abs=0.01)
    empty = torch.full((1, 3), 10.0)
    assert mixture.log_prob(x).min() > mixture.log_prob(empty).item()


def test_few_samples_get_fewer_components() -> None:
    x = two_clusters(25, 4)
    assert len(FeatureMixture.fit(x, components=5).weights) == 2
    assert len(FeatureMixture.fit(x[:9], components=5).weights) == 1


@pytest.mark.parametrize("width", [4, 100])
def test_a_single_sample_is_drawn_again_nearly(width: int) -> None:
    x = torch.linspace(-3, 8, width)[None]
    mixture = FeatureMixture.fit(x)
    drawn = mixture.sample(50, torch.Generator().manual_seed(0))
    assert ((drawn - x).abs() < 0.01 * (1 + x.abs())).all()
    assert mixture.log_prob(x) > mixture.log_prob(x + 0.1)
    assert mixture.count == 1


@pytest.mark.parametrize("width", [4, 100])
def test_features_that_never_vary_do_no_harm(width: int) -> None:
    x = torch.ones(60, width) * 3
    x[:, 0] = torch.randn(60, generator=torch.Generator().manual_seed(0))
    mixture = FeatureMixture.fit(x)
    drawn = mixture.sample(200, torch.Generator().manual_seed(0))
    assert (drawn[:, 1:] - 3).abs().max() < 0.02
    assert drawn[:, 0].std() > 0.7
    assert mixture.log_prob(x).isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_sample_that_is_not_finite_is_named(bad: float) -> None:
    x = two_clusters(30, 4)
    x[17, 2] = bad
    with pytest.raises(DataError, match="sample 17 are not finite"):
        FeatureMixture.fit(x)


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 3, 4)])
def test_only_rows_of_features_are_taken(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"must be \[samples, features\], got"):
        FeatureMixture.fit(torch.zeros(shape))


@CASES
def test_stored_and_read_again_it_is_the_same(width: int, rank: int) -> None:
    x = two_clusters(120, width)
    mixture = FeatureMixture.fit(x, components=2, rank=rank)
    stored = mixture.tensors()
    whole = {"center", "scale", "weights"}
    assert {n for n, t in stored.items() if t.dtype == torch.float32} == whole
    assert {n for n, t in stored.items() if t.dtype == torch.float16} == {*stored} - whole - {
        "count"
    }
    again = FeatureMixture(stored)
    assert again.count == 120
    assert again.width == width
    assert torch.equal(again.log_prob(x), mixture.log_prob(x))
    generators = (torch.Generator().manual_seed(0) for _ in range(2))
    first, second = (m.sample(9, g) for m, g in zip((mixture, again), generators, strict=True))
    assert torch.equal(first, second)
    assert {n: t.tolist() for n, t in again.tensors().items()} == {
        n: t.tolist() for n, t in stored.items()
    }


def test_seeds_decide_the_fit() -> None:
    x = two_clusters(200, 6)
    first, second = (FeatureMixture.fit(x, components=3, seed=4).tensors() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@CASES
def test_mixtures_stored_in_full_precision_are_read_as_they_are(width: int, rank: int) -> None:
    x = two_clusters(120, width)
    stored = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in FeatureMixture.fit(x, components=2, rank=rank).tensors().items()
    }
    stored["means"] = stored["means"] + 1e-4
    read = FeatureMixture(stored)
    assert {n: t.tolist() for n, t in read.tensors().items()} == {
        n: t.tolist() for n, t in stored.items()
    }


@CASES
def test_covariance_and_merged_gaussian_are_those_of_the_mixture(width: int, rank: int) -> None:
    mixture = FeatureMixture.fit(two_clusters(300, width), components=3, rank=rank)
    mean, variance = mixture.moments()
    parts = written_out(mixture)
    center = mean.numpy()
    expected = sum(w * (c + np.outer(m - center, m - center)) for w, m, c in parts)
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(mixture.covariance().numpy() / size, expected / size, atol=1e-6)
    torch.testing.assert_close(mixture.mean(), mean)
    one = mixture.merged()
    assert len(one.weights) == 1
    np.testing.assert_allclose(one.covariance().numpy() / size, expected / size, atol=5e-3)
    assert ((one.mean() - mean).abs() < 2e-3 * variance.sqrt()).all()


def test_a_loose_tolerance_ends_the_fit_earlier() -> None:
    x = two_clusters(300, 4)
    x[100:200] += x[:100].std(dim=0)
    close, loose = (
        FeatureMixture.fit(x, components=4, tolerance=tolerance).log_prob(x).mean()
        for tolerance in (1e-6, 10.0)
    )
    assert close > loose
