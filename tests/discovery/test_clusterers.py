"""Clusterers and the gaps that they look for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from sklearn.metrics import adjusted_rand_score

from rtl_continual.discovery import (
    build_clusterer,
    clusterer_config_class,
    clusterer_names,
    find_gap,
    gaussian_mixture,
)
from rtl_continual.discovery._class_mixture import fit_domains
from rtl_continual.discovery.gaussian_mixture import FIRST, _confirmed
from rtl_continual.errors import DataError, RTLError


class DetectorSection(BaseModel):
    """No clusterer's section."""


def blobs(
    sizes: list[int], width: int = 10, apart: float = 12.0
) -> tuple[torch.Tensor, np.ndarray]:
    draw = torch.Generator().manual_seed(3)
    labels = np.arange(len(sizes)).repeat(sizes)
    x = torch.randn(len(labels), width, generator=draw)
    x[torch.arange(len(labels)), torch.from_numpy(labels)] += apart
    return x, labels


def make(name: str, **options: object):  # type: ignore[no-untyped-def]
    return build_clusterer(clusterer_config_class(name)(**options))


@pytest.mark.parametrize("name", clusterer_names())
def test_every_clusterer_numbers_groups_from_the_largest(name: str) -> None:
    x, labels = blobs([60, 90])
    groups = make(name).cluster(x, labels if name == "classes" else None)
    assert groups.dtype == np.int64
    assert groups.max() == 1
    assert adjusted_rand_score(labels, groups) > 0.8
    assert np.bincount(groups)[0] > np.bincount(groups)[1]


@pytest.mark.parametrize("name", clusterer_names())
def test_every_clusterer_names_bad_samples(name: str) -> None:
    x, labels = blobs([30, 30])
    x[5] = torch.nan
    with pytest.raises(DataError, match="sample 5 are not finite"):
        make(name).cluster(x, labels)
    with pytest.raises(DataError, match="empty"):
        make(name).cluster(x[:0], labels[:0])
    with pytest.raises(DataError, match="60 samples need 60 labels"):
        make(name).cluster(torch.nan_to_num(x), labels[:7])


@pytest.mark.parametrize("sizes", [[300], [150, 150], [200, 60, 100], [80] * 5])
def test_the_data_choose_the_number_of_groups(sizes: list[int]) -> None:
    x, labels = blobs(sizes)
    groups = make("gaussian_mixture").cluster(x)
    assert groups.max() + 1 == len(sizes)
    assert adjusted_rand_score(labels, groups) > 0.9


def test_a_bent_cloud_is_one_group() -> None:
    draw = torch.Generator().manual_seed(0)
    turn = 3 * torch.rand(600, generator=draw)
    x = torch.randn(600, 6, generator=draw)
    x[:, 0] += 12 * turn.cos()
    x[:, 1] += 12 * turn.sin()
    assert make("gaussian_mixture").cluster(x).max() == 0


def test_class_means_are_no_groups_where_labels_are_at_hand() -> None:
    x, labels = blobs([100, 100, 100])
    clusterer = make("gaussian_mixture")
    assert clusterer.cluster(x, labels).max() == 0
    assert clusterer.cluster(x).max() == 2
    assert make("gaussian_mixture", use_classes=False).cluster(x, labels).max() == 2


def test_a_limit_joins_groups() -> None:
    x, _ = blobs([100, 100, 100])
    assert make("gaussian_mixture", max_clusters=2).cluster(x).max() == 1


def test_small_and_constant_data_are_one_group() -> None:
    for x in (torch.zeros(1, 4), torch.zeros(200, 4), torch.rand(5, 4)):
        assert make("gaussian_mixture").cluster(x).max() == 0


def test_more_clusters_than_samples_is_refused() -> None:
    with pytest.raises(DataError, match="3 clusters need as many different samples, got 2"):
        make("kmeans", clusters=3).cluster(torch.tensor([[0.0], [1.0], [1.0], [1.0]]))
    x, labels = blobs([10, 10])
    with pytest.raises(DataError, match="3 groups need as many classes, got 2"):
        make("classes", groups=3).cluster(x, labels)


def test_classes_need_labels_and_join_by_looks() -> None:
    x, labels = blobs([20, 20, 20, 20])
    with pytest.raises(DataError, match="needs class labels"):
        make("classes").cluster(x)
    assert make("classes").cluster(x, labels).max() == 3
    # Every blob looks like two classes.
    fine = 2 * labels + np.arange(80) % 2
    groups = make("classes", groups=4).cluster(x, fine)
    assert adjusted_rand_score(labels, groups) == 1.0
    assert make("classes", groups=1).cluster(x, fine).max() == 0


def test_unknown_names_are_named() -> None:
    with pytest.raises(RTLError, match="unknown clusterer 'kmean'; did you mean 'kmeans'"):
        clusterer_config_class("kmean")
    with pytest.raises(RTLError, match="unknown clusterer config"):
        build_clusterer(DetectorSection())


def test_a_gap_is_a_valley_and_a_cut_is_none() -> None:
    draw = np.random.default_rng(0)
    cloud = draw.normal(size=(400, 5))
    apart = cloud + np.array([8.0, 0, 0, 0, 0])
    assert find_gap(cloud, apart).valley < 0.05
    assert find_gap(cloud, apart).leak < 0.01
    right = cloud[:, 0] > 0
    assert find_gap(cloud[right], cloud[~right]).valley > 0.6
    assert find_gap(cloud[:1], apart).valley == 1.0
    assert find_gap(np.zeros((9, 2)), np.zeros((9, 2))).valley == 1.0


def test_leak_counts_the_second_groups_share_on_the_first_ones_side() -> None:
    draw = np.random.default_rng(1)
    part = draw.normal(size=(200, 4))
    rest = draw.normal(size=(300, 4)) + np.array([10.0, 0, 0, 0])
    whole = np.concatenate([rest, draw.normal(size=(100, 4))])
    draw.shuffle(whole)
    assert find_gap(part, whole).leak == pytest.approx(0.25, abs=0.06)


def test_a_rare_look_joins_the_domain_that_it_touches_and_no_other() -> None:
    draw = np.random.default_rng(0)
    targets = np.arange(900) % 3
    x = draw.normal(0, 1, (900, 6)) + 4 * np.eye(6)[targets]
    # A quarter of the first domain looks different, with a few samples on the way there.
    x[:400, 5] += np.where(np.arange(400) < 90, 9.0, 0.0)
    x[90:110, 5] += np.linspace(1, 8, 20)
    x[400:, 4] += 30.0
    features = torch.from_numpy(x)
    groups = make("gaussian_mixture").cluster(features, targets)
    assert np.bincount(groups).tolist() == [500, 400]
    assert set(groups[:400].tolist()) == {1}
    alone = make("gaussian_mixture", min_share=0.0).cluster(features, targets)
    assert alone.max() == 2


def test_groups_without_a_common_class_are_not_told_apart() -> None:
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    targets = (np.arange(200) >= 100).astype(np.int64)
    x[100:] += 20
    assert make("gaussian_mixture").cluster(x, targets).max() == 0
    assert make("gaussian_mixture").cluster(x).max() == 1


def test_the_finest_answer_that_another_confirms_counts() -> None:
    one = np.zeros(120, dtype=np.int64)
    two = np.repeat([0, 1], 60)
    almost_two = np.repeat([0, 1], [61, 59])
    three = np.repeat([0, 1, 2], 40)
    another_three = np.arange(120) % 3
    assert _confirmed([one, two, almost_two, three]).max() == 1
    assert _confirmed([one, one, three, another_three]).max() == 0
    assert _confirmed([one, two, two, three, three]).max() == 2
    # No two agree: the one that is nearest to all.
    assert np.array_equal(_confirmed([another_three, two, three]), two)
    assert np.array_equal(_confirmed([three]), three)


@pytest.mark.parametrize("apart", [0.0, 12.0])
def test_where_nothing_is_apart_few_fits_say_so(
    apart: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    fit = fit_domains

    def counted(z: np.ndarray, targets: np.ndarray, count: int, **options: int) -> np.ndarray:
        made.append(count)
        return fit(z, targets, count, **options)

    monkeypatch.setattr(gaussian_mixture, "fit_domains", counted)
    x, labels = blobs([200, 200], apart=apart)
    groups = make("gaussian_mixture").cluster(x, np.arange(400) % 3)
    if apart:
        assert adjusted_rand_score(labels, groups) == 1.0
        assert set(made) > set(FIRST)
    else:
        assert groups.max() == 0
        assert made == [*FIRST]
