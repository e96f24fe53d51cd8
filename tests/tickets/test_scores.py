from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rtl_continual.tickets import MaskLayout, MaskScores, magnitude_scores, top_scores

LAYOUTS = st.lists(st.integers(1, 400), min_size=1, max_size=6).map(
    lambda sizes: MaskLayout({f"w{i}": (size, 1) for i, size in enumerate(sizes)})
)
SPARSITIES = st.sampled_from([0.0, 0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999])
FLOORS = st.sampled_from([0.0, 0.1, 0.5, 0.99])


def random_scores(layout: MaskLayout, seed: int, levels: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if levels is not None:  # few distinct values: many ties
        return torch.randint(levels, (layout.total,), generator=generator).float()
    return torch.randn(layout.total, generator=generator)


@given(LAYOUTS, SPARSITIES, FLOORS, st.integers(0, 100), st.sampled_from([None, 1, 3]))
def test_budget_is_exact_and_no_layer_is_empty(
    layout: MaskLayout, sparsity: float, floor: float, seed: int, levels: int | None
) -> None:
    keep = top_scores(random_scores(layout, seed, levels), layout, sparsity, floor)
    budget = max(round((1 - sparsity) * layout.total), len(layout.shapes))
    assert int(keep.sum()) == budget
    counts = {name: int(part.sum()) for name, part in layout.unflatten(keep).items()}
    assert min(counts.values()) >= 1
    least = {n: max(1, int(floor * budget / layout.total * s)) for n, s in layout.sizes.items()}
    if sum(least.values()) <= budget:
        assert all(counts[name] >= least[name] for name in counts)


@given(LAYOUTS, SPARSITIES, FLOORS, st.integers(0, 100), st.sampled_from([None, 1, 3]))
def test_floors_first_and_then_the_best_of_the_rest(
    layout: MaskLayout, sparsity: float, floor: float, seed: int, levels: int | None
) -> None:
    scores = random_scores(layout, seed, levels)
    budget = max(round((1 - sparsity) * layout.total), len(layout.shapes))
    least = [max(1, int(floor * budget / layout.total * s)) for s in layout.sizes.values()]
    if sum(least) > budget:
        least = [1] * len(least)
    expected = torch.zeros(layout.total, dtype=torch.bool)
    start = 0
    for size, count in zip(layout.sizes.values(), least, strict=True):
        order = scores[start : start + size].argsort(descending=True, stable=True)
        expected[start + order[:count]] = True
        start += size
    for index in scores.argsort(descending=True, stable=True).tolist():
        if int(expected.sum()) == budget:
            break
        expected[index] = True
    assert torch.equal(top_scores(scores, layout, sparsity, floor), expected)


def test_tiny_layers_survive_a_floor_that_the_budget_cannot_pay() -> None:
    layout = MaskLayout({"large": (990, 1), **{f"tiny{i}": (1, 1) for i in range(10)}})
    scores = torch.zeros(1000)
    scores[:990] = 1.0
    keep = layout.unflatten(top_scores(scores, layout, 0.98, 0.9))
    assert {name: int(part.sum()) for name, part in keep.items()} == {
        "large": 10,
        **{f"tiny{i}": 1 for i in range(10)},
    }


def test_the_highest_scores_of_all_layers_together_are_kept() -> None:
    layout = MaskLayout({"a": (2, 2), "b": (2, 3)})
    scores = torch.tensor([9.0, 1, 8, 7, 6, 2, 3, 0, 4, 5])
    keep = top_scores(scores, layout, 0.5, 0.0)
    assert scores[keep].tolist() == [9, 8, 7, 6, 5]


def test_floor_gives_a_weak_layer_its_share() -> None:
    layout = MaskLayout({"strong": (50, 1), "weak": (50, 1)})
    scores = torch.cat([torch.ones(50), torch.arange(50) / 100])
    keep = layout.unflatten(top_scores(scores, layout, 0.8, 0.5))
    assert int(keep["weak"].sum()) == 5  # half of the mean density of 0.2
    assert keep["weak"].flatten().nonzero().flatten().tolist() == [45, 46, 47, 48, 49]
    assert int(keep["strong"].sum()) == 15


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_of_diverged_training_still_give_a_mask(value: float) -> None:
    layout = MaskLayout({"a": (90, 1), "b": (10, 1)})
    keep = top_scores(torch.full((100,), value), layout, 0.9, 0.5)
    assert [int(part.sum()) for part in layout.unflatten(keep).values()] == [9, 1]


def test_ties_go_to_the_lower_index() -> None:
    layout = MaskLayout({"a": (6, 1), "b": (6, 1)})
    keep = top_scores(torch.zeros(12), layout, 0.5, 0.0)
    # One per layer is kept first, the rest in order.
    assert keep.nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 6]


def test_sparsity_zero_keeps_everything_and_scores_stay_as_they_are() -> None:
    layout = MaskLayout({"a": (4, 4)})
    scores = torch.randn(16)
    before = scores.clone()
    assert top_scores(scores, layout, 0.0, 0.1).all()
    top_scores(scores, layout, 0.9, 0.1)
    assert torch.equal(scores, before)


@given(st.lists(st.integers(2, 50), min_size=1, max_size=4), st.integers(0, 100))
def test_magnitude_scores_are_ranks_within_a_layer(sizes: list[int], seed: int) -> None:
    layout = MaskLayout({f"w{i}": (size, 1) for i, size in enumerate(sizes)})
    weights = random_scores(layout, seed) * torch.logspace(-3, 3, layout.total)
    ranks = layout.unflatten(magnitude_scores(layout, weights))
    for name, part in layout.unflatten(weights.abs()).items():
        order = part.flatten().argsort(stable=True)
        evenly = torch.linspace(0, 1, len(order))
        assert torch.equal(ranks[name].flatten()[order], evenly)


@pytest.fixture
def scores() -> MaskScores:
    layout = MaskLayout({"a": (3, 4), "b": (2, 5)})
    weights = torch.randn(22, generator=torch.Generator().manual_seed(1))
    return MaskScores(layout, weights, magnitude_scores(layout, weights))


def test_gradient_reaches_the_scores_of_kept_and_dropped_weights(scores: MaskScores) -> None:
    scores.binarise(0.5)
    upstream = torch.randn(22, generator=torch.Generator().manual_seed(2))
    flat = scores.layout.flatten(scores.effective())
    assert torch.equal(flat, scores.weights * scores.keep)
    assert int((flat == 0).sum()) == 11
    (flat * upstream).sum().backward()
    assert torch.equal(scores.scores.grad, upstream * scores.weights)
    assert (scores.scores.grad[scores.keep == 0] != 0).all()


def test_the_mask_is_constant_between_two_binarisations(scores: MaskScores) -> None:
    scores.binarise(0.5)
    before = scores.mask()
    with torch.no_grad():
        scores.scores.neg_()
    assert scores.mask() == before
    scores.binarise(0.5)
    after = scores.mask()
    assert after.kept == before.kept
    assert after.jaccard(before) < 0.5


def test_scores_are_learned_and_weights_are_not(scores: MaskScores) -> None:
    assert [name for name, _ in scores.named_parameters()] == ["scores"]
    assert not scores.weights.requires_grad
    assert scores.mask().sparsity == 0


def test_gradients_reach_kept_and_dropped_weights_and_layers_that_are_not_used() -> None:
    layout = MaskLayout({"a": (2, 2), "b": (3, 1), "c": (1, 2)})
    weights = torch.arange(1.0, 10.0)
    scores = MaskScores(layout, weights, torch.arange(9.0), floor=0.0)
    scores.binarise(0.5)
    values = scores.effective()
    (2 * values["a"].sum() + (values["c"] * torch.tensor([[3.0, 4.0]])).sum()).backward()
    assert scores.scores.grad is not None
    assert scores.scores.grad.tolist() == [2, 4, 6, 8, 0, 0, 0, 24, 36]
    assert torch.equal(
        torch.cat([t.detach().flatten() for t in values.values()]) != 0, scores.keep > 0
    )


def test_infinite_scores_cannot_keep_a_layer_from_its_floor() -> None:
    layout = MaskLayout({"high": (50, 1), "low": (50, 1)})
    scores = torch.cat([torch.full((50,), torch.inf), torch.zeros(50)])
    keep = layout.unflatten(top_scores(scores, layout, 0.8, 0.5))
    assert {name: int(part.sum()) for name, part in keep.items()} == {"high": 15, "low": 5}


@pytest.mark.parametrize("count", [1, 7, 3 * 2**16 + 5])
def test_the_mean_sigmoid_has_the_gradient_of_the_plain_formula(count: int) -> None:
    layout = MaskLayout({"weight": (1, count)})
    scores = MaskScores(layout, torch.ones(count), torch.randn(count))
    plain = scores.scores.detach().clone().requires_grad_()
    expected = 0.3 * plain.sigmoid().mean()
    mean = scores.mean_sigmoid()
    torch.testing.assert_close(0.3 * mean, expected)
    expected.backward()
    (0.3 * mean).backward()
    assert torch.equal(scores.scores.grad, plain.grad)


def test_masked_weights_follow_the_mask() -> None:
    layout = MaskLayout({"weight": (2, 2)})
    scores = MaskScores(layout, torch.arange(1.0, 5), torch.arange(4.0))
    assert scores.effective()["weight"].flatten().tolist() == [1, 2, 3, 4]
    scores.binarise(0.5)
    assert scores.effective()["weight"].flatten().tolist() == [0, 0, 3, 4]
    again = scores.effective()["weight"]
    assert again.data_ptr() == scores.effective()["weight"].data_ptr()
    scores.keep = torch.tensor([1.0, 0, 0, 0])
    assert scores.effective()["weight"].flatten().tolist() == [1, 0, 0, 0]


def test_weights_masked_in_inference_mode_can_be_learned_from() -> None:
    scores = MaskScores(MaskLayout({"weight": (2, 2)}), torch.ones(4), torch.arange(4.0))
    with torch.inference_mode():
        scores.effective()
    x = torch.ones(1, 2, requires_grad=True)
    (x @ scores.effective()["weight"]).sum().backward()
    assert scores.scores.grad is not None
    assert x.grad is not None
