"""What every router must hold to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from rtl_continual.errors import RTLError
from rtl_continual.routing import UNKNOWN, FeatureMixture, Router, Routing
from rtl_continual.testing._suite import Outcome, Suite, require

__all__ = ["ROUTER_SUITE", "check_router"]

ROUTER_SUITE: Suite[Router] = Suite("router")

Build = Callable[[], Router]

_TICKETS, _WIDTH = 4, 12


def check_router(build: Build) -> list[Outcome]:
    """Check a router against the contract, on four well separated clusters.

    Args:
        build: makes a router that knows no ticket yet.

    Returns:
        One outcome per property.

    Raises:
        ConformanceError: with every property that does not hold.

    Example:
        >>> from rtl_continual.routing import FlatRouter
        >>> all(outcome.passed for outcome in check_router(FlatRouter))
        True
    """
    return ROUTER_SUITE.check(build)


def _cluster(ticket: int, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + ticket)
    center = torch.zeros(_WIDTH)
    center[3 * ticket : 3 * ticket + 3] = 6.0
    return center + torch.randn(count, _WIDTH, generator=generator)


@cache
def _statistics(ticket: int) -> dict[str, torch.Tensor]:
    return FeatureMixture.fit(_cluster(ticket, 200, seed=0)).tensors()


def _mixtures(count: int = _TICKETS) -> list[FeatureMixture]:
    """Fresh ones each time: a router that changes them spoils no other check."""
    return [
        FeatureMixture({key: tensor.clone() for key, tensor in _statistics(ticket).items()})
        for ticket in range(count)
    ]


def _samples(count: int = 20, tickets: int = _TICKETS) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [_cluster(ticket, count, seed=1) for ticket in range(tickets)]
    return torch.cat(parts), torch.arange(tickets).repeat_interleave(count)


def _fitted(build: Build, tickets: int = _TICKETS) -> Router:
    router = build()
    router.fit(_mixtures(tickets))
    return router


def _same(one: Routing, other: Routing) -> bool:
    return (
        torch.equal(one.ticket_ids, other.ticket_ids)
        and torch.allclose(one.weights, other.weights, atol=1e-5)
        and torch.allclose(one.confidence, other.confidence, atol=1e-5)
    )


@ROUTER_SUITE.add
def knows_as_many_tickets_as_it_was_given(build: Build) -> None:
    """``num_tickets`` counts them."""
    router = build()
    require(router.num_tickets == 0, f"a new router knows {router.num_tickets} tickets, not 0")
    router.fit(_mixtures())
    require(router.num_tickets == 4, f"fitted on 4 tickets, num_tickets is {router.num_tickets}")


@ROUTER_SUITE.add
def answers_have_the_right_shape(build: Build) -> None:
    """``[batch, k]``, ``[batch, k]`` and ``[batch]``."""
    features, _ = _samples()
    answer = _fitted(build).route(features)
    batch = len(features)
    shapes = [list(part.shape) for part in answer]
    require(
        len(shapes[0]) == 2 and shapes[0][0] == batch and shapes[0][1] >= 1,
        f"ticket_ids must be [{batch}, k], got {shapes[0]}",
    )
    require(shapes[1] == shapes[0], f"weights must be {shapes[0]}, got {shapes[1]}")
    require(shapes[2] == [batch], f"confidence must be [{batch}], got {shapes[2]}")


@ROUTER_SUITE.add
def answers_have_the_right_values(build: Build) -> None:
    """Known ids as int64, weights that sum to one, confidence in 0..1."""
    features, _ = _samples()
    ids, weights, confidence = _fitted(build).route(features)
    require(ids.dtype == torch.int64, f"ticket_ids must be int64, got {ids.dtype}")
    known = (ids == UNKNOWN) | ((ids >= 0) & (ids < _TICKETS))
    require(known.all(), f"ids must be 0..{_TICKETS - 1} or UNKNOWN, got {ids.unique().tolist()}")
    require(weights.is_floating_point(), f"weights must be floating, got {weights.dtype}")
    require(bool((weights >= 0).all()), "a weight is negative")
    total = weights.sum(dim=1)
    require(torch.allclose(total, torch.ones_like(total), atol=1e-4), "weights do not sum to one")
    require(bool(((confidence >= 0) & (confidence <= 1)).all()), "confidence leaves 0..1")
    best = weights.sort(dim=1, descending=True).values
    require(torch.equal(best, weights), "tickets are not in the order of their weights")


@ROUTER_SUITE.add
def finds_well_separated_tickets(build: Build) -> None:
    """At least 95 % of samples of clusters six deviations apart."""
    features, right = _samples()
    share = float((_fitted(build).route(features).ticket_ids[:, 0] == right).float().mean())
    require(share >= 0.95, f"only {100 * share:.0f} % of well separated samples are routed right")


@ROUTER_SUITE.add
def same_input_gives_the_same_answer(build: Build) -> None:
    """Routing twice gives the same tickets, weights and confidence."""
    router, (features, _) = _fitted(build), _samples()
    require(_same(router.route(features), router.route(features)), "a second call differs")


@ROUTER_SUITE.add
def same_statistics_give_the_same_router(build: Build) -> None:
    """Fitting is deterministic."""
    features, _ = _samples()
    one, other = _fitted(build).route(features), _fitted(build).route(features)
    require(_same(one, other), "two routers fitted on the same statistics differ")


@ROUTER_SUITE.add
def does_not_depend_on_the_batch(build: Build) -> None:
    """A sample alone, in a batch and in a shuffled batch gets the same answer."""
    router, (features, _) = _fitted(build), _samples(5)
    whole = router.route(features)
    for row in range(0, len(features), 3):
        alone = router.route(features[row : row + 1])
        there = Routing(*(part[row : row + 1] for part in whole))
        require(_same(alone, there), f"sample {row} alone is routed differently than in its batch")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    shuffled = router.route(features[order])
    require(
        _same(shuffled, Routing(*(part[order] for part in whole))),
        "a shuffled batch is routed differently",
    )


@ROUTER_SUITE.add
def changes_nothing_it_is_given(build: Build) -> None:
    """Features and the tickets' statistics keep their bits."""
    mixtures, (features, _) = _mixtures(), _samples()
    before = [{k: v.clone() for k, v in m.tensors().items()} for m in mixtures]
    given = features.clone()
    router = build()
    router.fit(mixtures[:-1])
    router.add(mixtures[-1])
    router.route(features)
    require(torch.equal(features, given), "route() changes the features")
    for ticket, (mixture, tensors) in enumerate(zip(mixtures, before, strict=True)):
        for key, tensor in mixture.tensors().items():
            require(torch.equal(tensor, tensors[key]), f"changes '{key}' of ticket {ticket}")
    require(len(mixtures) == _TICKETS, "the list of statistics has another length")


@ROUTER_SUITE.add
def saves_and_loads(build: Build) -> None:
    """A new router with the same state gives the same answers, without any fit."""
    router, (features, _) = _fitted(build), _samples()
    state = {key: value.clone() for key, value in router.state_dict().items()}
    require(
        all(isinstance(value, torch.Tensor) for value in state.values()),
        "state_dict() must hold tensors only",
    )
    loaded = build()
    loaded.load_state_dict(state)
    require(
        loaded.num_tickets == router.num_tickets,
        f"{loaded.num_tickets} tickets after loading, not {router.num_tickets}",
    )
    require(_same(router.route(features), loaded.route(features)), "answers differ after loading")


@ROUTER_SUITE.add
def adding_a_ticket_keeps_the_others_ids(build: Build) -> None:
    """After ``add`` old samples keep their tickets and new ones find theirs."""
    mixtures, (features, right) = _mixtures(), _samples()
    router = build()
    router.fit(mixtures[:-1])
    router.add(mixtures[-1])
    require(router.num_tickets == _TICKETS, f"{router.num_tickets} tickets after add, not 4")
    hits = router.route(features).ticket_ids[:, 0] == right
    old, new = right < _TICKETS - 1, right == _TICKETS - 1
    require(float(hits[old].float().mean()) >= 0.95, "samples of old tickets changed their ticket")
    require(float(hits[new].float().mean()) >= 0.95, "samples of the new ticket do not find it")


@ROUTER_SUITE.add
def grows_from_nothing(build: Build) -> None:
    """``add`` on a router without tickets gives ticket 0."""
    router = build()
    router.add(_mixtures(1)[0])
    require(router.num_tickets == 1, f"{router.num_tickets} tickets after the first add, not 1")


@ROUTER_SUITE.add
def works_with_one_ticket(build: Build) -> None:
    """Everything goes to it."""
    features, _ = _samples(5, tickets=1)
    ids = _fitted(build, tickets=1).route(features).ticket_ids
    require(bool((ids[:, 0] == 0).all()), f"one ticket, but ids are {ids.unique().tolist()}")


@ROUTER_SUITE.add
def takes_an_empty_batch(build: Build) -> None:
    """No rows in, no rows out."""
    answer = _fitted(build).route(torch.zeros(0, _WIDTH))
    lengths = [len(part) for part in answer]
    require(lengths == [0, 0, 0], f"an empty batch gives {lengths} rows")


@ROUTER_SUITE.add
def keeps_to_the_budget(build: Build) -> None:
    """``budget=1`` gives one ticket, of weight one."""
    features, _ = _samples()
    ids, weights, _ = _fitted(build).route(features, budget=1)
    require(ids.shape[1] == 1, f"budget=1 gives {ids.shape[1]} tickets per sample")
    require(torch.allclose(weights, torch.ones_like(weights)), "the only ticket's weight is not 1")


@ROUTER_SUITE.add
def leaks_no_gradient(build: Build) -> None:
    """Nothing flows back into the features, and so into the backbone."""
    router, (features, _) = _fitted(build), _samples()
    answer = router.route(features.requires_grad_())
    require(not answer.weights.requires_grad, "weights require gradients")
    require(not answer.confidence.requires_grad, "confidence requires gradients")


@ROUTER_SUITE.add
def leaves_the_random_state_alone(build: Build) -> None:
    """Fitting and routing draw nothing from torch's global generator."""
    router, (features, _) = build(), _samples()
    mixtures = _mixtures()
    before = torch.get_rng_state()
    router.fit(mixtures)
    router.route(features)
    require(torch.equal(torch.get_rng_state(), before), "draws from torch's global generator")


@ROUTER_SUITE.add
def refuses_to_route_without_tickets(build: Build) -> None:
    """With a message for the user."""
    try:
        build().route(torch.zeros(1, _WIDTH))
    except RTLError:
        return
    raise AssertionError("route() without tickets must raise a subclass of RTLError")


@ROUTER_SUITE.add
def counts_its_cost(build: Build) -> None:
    """``flops`` is a whole number that does not fall as tickets come."""
    few, many = _fitted(build, tickets=2).flops(), _fitted(build).flops()
    require(isinstance(many, int) and many > 0, f"flops() must be a positive int, got {many!r}")
    require(few <= many, f"flops() falls from {few} to {many} as tickets come")


@ROUTER_SUITE.add
def says_how_it_was_built(build: Build) -> None:
    """Name and options are at hand, so that a bank can build it again."""
    router = build()
    config = getattr(router, "config", None)
    config_class = type(router).config_class
    require(
        type(config) is config_class,
        f"config must be a {config_class.__name__}, got {type(config).__name__}",
    )
    again = config_class.model_validate_json(config.model_dump_json())  # type: ignore[union-attr]
    require(again == config, "its options do not survive JSON")
