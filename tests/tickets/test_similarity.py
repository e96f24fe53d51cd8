from __future__ import annotations

import numpy as np
import pytest
import torch

from rtl_continual.tickets import (
    Mask,
    MaskLayout,
    chance_jaccard,
    corrected_jaccard,
    layer_similarity,
    similarity_matrix,
    similarity_scores,
)

LAYOUT = MaskLayout({"a": (300, 500), "b": (100, 500)})


def random_mask(seed: int, density: float) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask.from_flat(LAYOUT, torch.rand(LAYOUT.total, generator=generator) < density)


# d / (2 - d) at densities 0.75, 0.5, 0.25 and 0.1, rounded.
@pytest.mark.parametrize(
    ("density", "expected"), [(0.75, 0.60), (0.5, 0.333), (0.25, 0.143), (0.1, 0.053)]
)
def test_chance_level_of_equal_densities(density: float, expected: float) -> None:
    assert chance_jaccard(density, density) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.1, 0.1), (0.1, 0.6), (0.02, 0.3)])
def test_chance_level_is_what_random_masks_have(a: float, b: float) -> None:
    measured = random_mask(1, a).jaccard(random_mask(2, b))
    # 200,000 weights: the overlap's own deviation is below 0.002.
    assert measured == pytest.approx(chance_jaccard(a, b), abs=0.008)
    assert corrected_jaccard(random_mask(1, a), random_mask(2, b)) == pytest.approx(0, abs=0.01)


def test_corrected_overlap_is_one_for_equal_masks_and_negative_for_disjoint_ones() -> None:
    mask = random_mask(0, 0.3)
    assert corrected_jaccard(mask, mask) == pytest.approx(1)
    other = Mask.from_flat(LAYOUT, ~mask.to_flat())
    assert corrected_jaccard(mask, other) < -0.1


def test_two_dense_masks_are_equal_whatever_chance_says() -> None:
    dense = Mask.from_flat(LAYOUT, torch.ones(LAYOUT.total))
    assert chance_jaccard(1, 1) == 1
    assert corrected_jaccard(dense, dense) == 1


@pytest.mark.parametrize("corrected", [False, True])
def test_matrix_and_scores(corrected: bool) -> None:
    masks = [random_mask(seed, 0.2 + 0.2 * seed) for seed in range(3)]
    overlap = corrected_jaccard if corrected else Mask.jaccard
    expected = np.array([[overlap(a, b) for b in masks] for a in masks])
    matrix = similarity_matrix(masks, corrected=corrected)
    np.testing.assert_allclose(matrix, expected)
    scores = similarity_scores(masks, corrected=corrected)
    for i, score in enumerate(scores):
        assert score == pytest.approx(np.mean([expected[i, j] for j in range(3) if j != i]))


def test_a_lone_ticket_has_no_similarity() -> None:
    assert similarity_scores([]) == []
    assert similarity_scores([random_mask(0, 0.5)]) == [None]
    assert layer_similarity(random_mask(0, 0.5), []) == {}


def test_layer_similarity_is_the_mean_over_the_others() -> None:
    mask, *others = (random_mask(seed, 0.4) for seed in range(3))
    rows = [mask.layer_jaccard(other) for other in others]
    found = layer_similarity(mask, others)
    assert found == pytest.approx({name: (rows[0][name] + rows[1][name]) / 2 for name in "ab"})
