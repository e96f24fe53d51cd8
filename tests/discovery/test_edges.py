"""Pieces of a neighbouring domain at the ends of an experience."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rtl_continual.discovery import Arrival, Discovery, DiscoveryConfig, KnownTickets, discover
from rtl_continual.discovery._edges import find_edge

WIDTH, CLASSES = 12, 5


def domain(number: int, count: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Samples of a domain whose classes lie further apart than the domains do."""
    draw = torch.Generator().manual_seed(100 * number + seed)
    places = 15 * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(7))
    y = torch.randint(CLASSES, (count,), generator=draw)
    x = places[y] + torch.randn(count, WIDTH, generator=draw)
    x[:, number] += 9.0
    return x, y.numpy()


def joined(*parts: tuple[torch.Tensor, np.ndarray]) -> tuple[torch.Tensor, np.ndarray]:
    return torch.cat([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def fading(seed: int = 0) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """400 samples of domain 1; 40 of domain 2 lie among the last 120. And where those are."""
    rng = np.random.default_rng(seed)
    places = np.sort(rng.choice(np.arange(280, 400), 40, replace=False))
    x, y = domain(1, 400, seed)
    x[torch.from_numpy(places)], y[places] = domain(2, 40, seed)
    return x, y, places


@pytest.fixture
def known() -> KnownTickets:
    known = KnownTickets()
    known.learn(domain(0, 400)[0])
    return known


def look(
    x: torch.Tensor,
    y: np.ndarray | None,
    known: KnownTickets | None = None,
    arrival: Arrival | None = None,
    **options: float,
) -> Discovery:
    return discover(
        x,
        KnownTickets() if known is None else known,
        DiscoveryConfig.model_validate(options),
        targets=y,
        arrival=arrival or Arrival(),
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_next_domain_at_the_end_waits_and_founds_its_ticket_later(seed: int) -> None:
    x, y, places = fading(seed)
    found = look(x, y)
    assert found.held.tolist() == places.tolist()
    assert found.new == (0,)
    assert found.outliers == 0
    assert len(found.members(0)) == 360
    known = KnownTickets()
    known.learn(x[torch.from_numpy(found.members(0))])
    then, labels = joined((x[torch.from_numpy(places)], y[places]), domain(2, 300, seed + 1))
    later = look(then, labels, known, Arrival(waiting=40))
    assert later.new == (1,)
    assert len(later.members(1)) == 340
    assert len(later.held) == 0


def test_what_waited_does_not_wait_again() -> None:
    x, y, places = fading()
    waiting, labels = x[torch.from_numpy(places)], y[places]
    assert len(look(waiting, labels, arrival=Arrival(waiting=40)).held) == 0
    # Nothing arrives but a few samples: too few to show an edge.
    few = joined((waiting, labels), domain(1, 15, seed=4))
    assert len(look(*few, arrival=Arrival(waiting=40)).held) == 0


def test_nothing_waits_in_the_last_experience_or_where_that_is_off() -> None:
    x, y, _ = fading()
    plain = discover(x, KnownTickets(), targets=y)
    for found in (look(x, y, arrival=Arrival(last=True)), look(x, y, hold_back=0)):
        assert len(found.held) == 0
        assert np.array_equal(found.ticket_ids, plain.ticket_ids)


def test_without_labels_or_an_order_nothing_waits() -> None:
    x, y, _ = fading()
    assert len(look(x, None).held) == 0
    mixed = np.random.default_rng(1).permutation(len(y))
    assert len(look(x[torch.from_numpy(mixed)], y[mixed]).held) == 0


@pytest.mark.parametrize("seed", range(5))
def test_one_domain_holds_nothing_shuffled_or_sorted_by_class(seed: int) -> None:
    x, y = domain(1, 400, seed)
    for order in (np.arange(400), np.argsort(y, kind="stable"), np.argsort(-y, kind="stable")):
        found = look(x[torch.from_numpy(order)], y[order])
        assert len(found.held) == 0
        assert found.new == (0,)


@pytest.mark.parametrize("seed", range(3))
def test_two_domains_shuffled_together_hold_nothing(seed: int) -> None:
    x, y = joined(domain(1, 300, seed), domain(2, 300, seed))
    order = np.random.default_rng(seed).permutation(600)
    found = look(x[torch.from_numpy(order)], y[order])
    assert len(found.held) == 0
    assert found.new == (0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_two_domains_sorted_by_class_hold_nothing(seed: int) -> None:
    x, y = joined(domain(1, 300, seed), domain(1, 300, seed + 10))
    # The second domain differs from the first one in another direction for each class.
    x[torch.arange(300, 600), 2 + torch.from_numpy(y[300:])] += 9.0
    order = np.random.default_rng(seed).permutation(600)
    order = order[np.argsort(y[order], kind="stable")]
    assert len(look(x[torch.from_numpy(order)], y[order]).held) == 0


@pytest.mark.parametrize("hold_back", [0.33, 0.0])
def test_what_is_left_of_the_domain_before_is_not_learned_with_the_next(
    known: KnownTickets, hold_back: float
) -> None:
    old, new = domain(0, 60, seed=5), domain(1, 400)
    x, y = joined(old, new)
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(120), np.arange(120, 460)])
    found = look(x[torch.from_numpy(order)], y[order], known, hold_back=hold_back)
    assert found.new == (1,)
    assert (found.ticket_ids == np.where(order < 60, 0, 1)).all()


def test_an_unknown_domain_that_comes_first_gets_its_ticket(known: KnownTickets) -> None:
    first, second = domain(2, 100, seed=1), domain(1, 400)
    found = look(*joined(first, second), known)
    assert found.new == (1, 2)
    assert sorted(len(found.members(ticket)) for ticket in found.new) == [100, 400]


def test_few_and_equal_samples_show_no_edge() -> None:
    y = np.arange(100) % CLASSES
    assert len(find_edge(np.zeros((100, WIDTH)), y, 33)) == 0
    x = np.random.default_rng(0).normal(size=(100, WIDTH))
    assert len(find_edge(x, y, 19)) == 0
    assert len(find_edge(x, y, 90)) == 0
    assert len(find_edge(x, np.arange(100), 33)) == 0


def test_a_share_beyond_a_half_is_refused() -> None:
    with pytest.raises(ValueError, match="less than or equal to 0"):
        DiscoveryConfig(hold_back=0.6)
