from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from rtl_continual.routing import FeatureMixture, HierarchicalRouter, HierarchicalRouterConfig
from rtl_continual.routing._tree import PointTree

AXES = 6


def points(count: int, seed: int = 0) -> np.ndarray:
    """Clusters of very different sizes."""
    rng = np.random.default_rng(seed)
    group = (rng.pareto(1.0, count)).astype(int) % 20
    centers = 5 * rng.normal(size=(20, AXES))
    return (centers[group] + rng.normal(size=(count, AXES))).astype(np.float32)


def nearest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((y[:, None] - x[None]) ** 2).sum(axis=2).argmin(axis=1)


def check_shape(tree: PointTree, x: np.ndarray) -> None:
    """Every point once, all leaves at one depth, no node too full, every centre a mean."""
    below: list[np.ndarray] = [np.array([i]) for i in range(len(x))]
    for depth, level in enumerate(tree.levels):
        nodes = []
        for node in range(level.count):
            held = level.child[node, : level.size[node]]
            assert 1 <= len(held) <= tree.capacity
            assert (level.child[node, level.size[node] :] == -1).all()
            assert (level.points[node, level.size[node] :, -1] == -np.inf).all()
            half = 0.5 * (level.points[node, : level.size[node], :-1] ** 2).sum(axis=1)
            np.testing.assert_allclose(level.points[node, : level.size[node], -1], -half, rtol=1e-4)
            if depth:
                assert (tree.levels[depth - 1].parent[held] == node).all()
            nodes.append(np.concatenate([below[child] for child in held]))
            center = x[nodes[-1]].mean(axis=0)
            np.testing.assert_allclose(level.center[node, :-1], center, atol=1e-3)
            assert level.weight[node] == len(nodes[-1])
        assert sorted(np.concatenate(nodes)) == list(range(len(x)))
        below = nodes
    assert tree.levels[-1].count == 1
    assert tree.count == len(x)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 200, 3000])
def test_a_built_tree_is_balanced(count: int) -> None:
    x = points(count)
    check_shape(PointTree.build(x, 8), x)


@pytest.mark.parametrize(("start", "count"), [(0, 400), (300, 700)])
def test_a_grown_tree_is_balanced(start: int, count: int) -> None:
    x = points(count)
    tree = PointTree.build(x[:start], 8) if start else PointTree(AXES, 8)
    for point in x[start:]:
        tree.add(point)
    check_shape(tree, x)
    assert len(tree.levels) <= 2 + math.log(count / 2) / math.log(2.4)


def test_many_equal_points_are_no_harm() -> None:
    x = np.ones((300, AXES), np.float32)
    built = PointTree.build(x, 8)
    check_shape(built, x)
    grown = PointTree(AXES, 8)
    for point in x:
        grown.add(point)
    check_shape(grown, x)


def test_adding_touches_one_path() -> None:
    x = points(2000)
    tree = PointTree.build(x[:-50], 16)
    for point in x[-50:]:
        before = [
            (level.count, level.child[: level.count].copy(), level.points[: level.count].copy())
            for level in tree.levels
        ]
        tree.add(point)
        for level, (count, child, held) in zip(tree.levels, before, strict=False):
            same = (level.child[:count] == child).all(axis=1)
            same &= (level.points[:count] == held).all(axis=(1, 2))
            # Two nodes of a level change at most: the parent of one that was halved, or the half.
            assert (~same).sum() <= 2
            assert level.count - count <= 1


@pytest.mark.parametrize("count", [5, 60, 900])
def test_a_beam_over_everything_finds_the_nearest(count: int) -> None:
    x, y = points(count), points(300, seed=1)
    tree = PointTree.build(x, 8)
    found = tree.search(y, beam=count, found=4)
    assert found.shape == (300, min(4, count))
    assert (found == nearest(x, y)[:, None]).any(axis=1).all()
    assert all(len({*row}) == len(row) for row in found.tolist())


def test_a_wider_beam_misses_less() -> None:
    x, y = points(4000), points(600, seed=1)
    tree, right = PointTree.build(x, 16), nearest(x, y)
    recall = [(tree.search(y, beam, 4) == right[:, None]).any(axis=1).mean() for beam in (1, 4, 16)]
    assert recall[0] < recall[1] < recall[2]
    assert recall[2] > 0.97
    assert tree.flops(1) < tree.flops(4) < tree.flops(16)


def test_finds_that_do_not_exist_are_marked() -> None:
    x = points(64)
    tree = PointTree.build(x, 8)
    found = tree.search(x[:5], beam=1, found=20)
    held = (found >= 0).sum(axis=1)
    assert found.shape[1] == 8
    assert ((held >= 1) & (held <= 8)).all()
    assert (held < 8).any()


def test_a_loaded_tree_searches_and_grows_like_the_saved_one() -> None:
    x, y = points(800), points(50, seed=1)
    tree = PointTree.build(x[:700], 8)
    loaded = PointTree.load(tree.state_dict(), x[:700])
    check_shape(loaded, x[:700])
    for point in x[700:]:
        tree.add(point)
        loaded.add(point)
    check_shape(loaded, x)
    assert (np.sort(tree.search(y, 4, 3)) == np.sort(loaded.search(y, 4, 3))).all()


class Scattered:
    """Statistics of many tickets around a few families."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.means = 6 * torch.randn(count // 10 + 1, 8, generator=generator)
        self.means = self.means.repeat_interleave(10, dim=0)[:count]
        self.means = self.means + 2 * torch.randn(count, 8, generator=generator)
        rows, columns = torch.tril_indices(8, 8)
        self._fixed = {
            "scale": torch.ones(8),
            "weights": torch.ones(1),
            "means": torch.zeros(1, 8),
            "cholesky": (0.4 * torch.eye(8))[rows, columns][None],
            "count": torch.tensor(100),
        }

    def mixture(self, index: int) -> FeatureMixture:
        return FeatureMixture({**self._fixed, "center": self.means[index]})

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        ticket = torch.randint(len(self.means), (count,), generator=generator)
        return self.means[ticket] + 0.4 * torch.randn(count, 8, generator=generator), ticket


def test_the_tree_answers_nearly_as_the_exact_search_and_grows() -> None:
    tickets = Scattered(600)
    tree = HierarchicalRouter(HierarchicalRouterConfig(exact_below=200, branching=16))
    exact = HierarchicalRouter(HierarchicalRouterConfig(exact_below=10_000))
    for router in (tree, exact):
        router.fit([tickets.mixture(index) for index in range(500)])
        for index in range(500, 600):
            router.add(tickets.mixture(index))
        assert router.num_tickets == 600
    x, right = tickets.draw(500)
    near, all_ = tree.route(x), exact.route(x)
    assert (all_.ticket_ids[:, 0] == right).float().mean() > 0.9
    agree = (near.ticket_ids == all_.ticket_ids).flatten()
    assert agree.float().mean() >= 0.985
    torch.testing.assert_close(near.confidence[agree], all_.confidence[agree], atol=0.02, rtol=0)
    assert "tree.level0" in tree.state_dict()
    assert "tree.level0" not in exact.state_dict()


def test_it_starts_with_an_exact_search_and_plants_the_tree_when_it_pays() -> None:
    tickets = Scattered(130)
    router = HierarchicalRouter(HierarchicalRouterConfig(exact_below=120, branching=8))
    for index in range(130):
        router.add(tickets.mixture(index))
        assert ("tree.level0" in router.state_dict()) == (router.num_tickets >= 120)
    x, right = tickets.draw(200)
    assert (router.route(x).ticket_ids[:, 0] == right).float().mean() > 0.9


def test_adding_to_a_tree_leaves_the_other_tickets_as_they_are() -> None:
    tickets = Scattered(400)
    router = HierarchicalRouter(HierarchicalRouterConfig(exact_below=100, branching=16))
    router.fit([tickets.mixture(index) for index in range(399)])
    before = {name: t.clone() for name, t in router.state_dict().items()}
    router.add(tickets.mixture(399))
    after = router.state_dict()
    assert torch.equal(after["points"][:399], before["points"])
    assert torch.equal(after["metric.transform"], before["metric.transform"])


def test_a_search_costs_no_more_than_the_square_root() -> None:
    rng = np.random.default_rng(0)
    for count in (100, 1000, 6000):
        tree = PointTree.build(rng.normal(size=(count, AXES)).astype(np.float32), 16)
        beams = len(tree.levels) * 4 * 16
        assert tree.flops(4) <= (20 * math.sqrt(count) + beams) * (2 * AXES + 2)


def test_one_input_is_routed_as_in_a_batch() -> None:
    tickets = Scattered(300)
    router = HierarchicalRouter(HierarchicalRouterConfig(exact_below=0, branching=16))
    router.fit([tickets.mixture(index) for index in range(300)])
    x, _ = tickets.draw(300)
    whole = router.route(x)
    alone = torch.cat([router.route(row[None]).ticket_ids for row in x])
    assert torch.equal(whole.ticket_ids, alone)


@pytest.mark.parametrize("exact_below", [0, 10_000])
def test_a_copy_shares_the_tickets_and_grows_alone(exact_below: int) -> None:
    tickets = Scattered(400)
    config = HierarchicalRouterConfig(exact_below=exact_below, branching=16)
    router = HierarchicalRouter(config)
    router.fit([tickets.mixture(index) for index in range(300)])
    x, _ = tickets.draw(200)
    before = router.route(x)
    grown = copy.deepcopy(router)
    for index in range(300, 400):
        grown.add(tickets.mixture(index))
    assert (router.num_tickets, grown.num_tickets) == (300, 400)
    for one, other in zip(before, router.route(x), strict=True):
        assert torch.equal(one, other)
    assert (grown.route(x).ticket_ids >= 300).any()
    for index in range(300, 400):
        router.add(tickets.mixture(index))
    for one, other in zip(grown.route(x), router.route(x), strict=True):
        assert torch.equal(one, other)
