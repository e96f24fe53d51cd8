"""Which samples belong to known tickets, and which need new ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import adjusted_rand_score

from rtl_continual.discovery import UNASSIGNED, DiscoveryConfig, KnownTickets, discover
from rtl_continual.errors import DataError
from rtl_continual.routing import FeatureMixture

WIDTH = 12


def domain(
    number: int, count: int, seed: int = 0, classes: int = 5
) -> tuple[torch.Tensor, np.ndarray]:
    """Samples of a domain whose classes lie two deviations apart, domains much further."""
    draw = torch.Generator().manual_seed(100 * number + seed)
    layout = torch.Generator().manual_seed(7)
    places = 2 * torch.randn(classes, WIDTH, generator=layout) / WIDTH**0.5
    y = torch.arange(count) % classes
    x = places[y] + torch.randn(count, WIDTH, generator=draw)
    x[:, number] += 15.0 * (number > 0)
    return x, y.numpy()


def known_domains(*numbers: int) -> KnownTickets:
    known = KnownTickets()
    for number in numbers:
        known.learn(domain(number, 400)[0])
    return known


def test_an_empty_bank_needs_a_ticket_for_each_group() -> None:
    parts = [domain(number, 200) for number in range(3)]
    found = discover(
        torch.cat([x for x, _ in parts]),
        KnownTickets(),
        targets=np.concatenate([y for _, y in parts]),
    )
    assert found.new == (0, 1, 2)
    assert adjusted_rand_score(np.arange(3).repeat(200), found.ticket_ids) > 0.99


def test_a_known_domain_needs_none_and_a_new_one_counts_on() -> None:
    known = known_domains(0, 1)
    assert discover(domain(1, 200, seed=1)[0], known).new == ()
    mixed = torch.cat([domain(0, 150, seed=1)[0], domain(2, 100)[0]])
    found = discover(mixed, known)
    assert found.new == (2,)
    assert (found.ticket_ids == [0] * 150 + [2] * 100).mean() > 0.98
    assert len(known) == 2


def test_a_domain_inside_the_range_of_a_broad_one_is_found() -> None:
    draw = torch.Generator().manual_seed(0)
    broad = 6 * torch.randn(600, WIDTH, generator=draw)
    # A domain with two halves, and another between them.
    broad[:, 0] = torch.where(torch.arange(600) % 2 == 0, 30.0, -30.0) + broad[:, 0] / 6
    known = KnownTickets()
    known.learn(broad)
    inside = 0.5 * torch.randn(200, WIDTH, generator=draw) + torch.eye(WIDTH)[1] * 20
    assert discover(inside, known).new == (1,)
    assert discover(broad[::3] + 0.1, known).new == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_of_few_classes_makes_no_ticket(seed: int) -> None:
    known = known_domains(0)
    x, y = domain(0, 1000, seed=seed + 1)
    few = np.flatnonzero(np.isin(y, [seed % 5, (seed + 2) % 5][: 1 + seed % 2]))[:120]
    found = discover(x[torch.from_numpy(few)], known)
    assert found.new == ()
    assert found.outliers <= 2


def test_outliers_below_the_support_stay_unassigned() -> None:
    x = torch.cat([domain(0, 300, seed=1)[0], domain(3, 30)[0] + 40])
    found = discover(x, known_domains(0))
    assert found.new == ()
    assert found.outliers >= 30
    assert set(found.ticket_ids[300:].tolist()) == {UNASSIGNED}
    assert discover(x, known_domains(0), DiscoveryConfig(min_support=20)).new == (1,)


def test_the_bank_never_grows_beyond_its_cap() -> None:
    x = torch.cat([domain(number, 150)[0] for number in range(4)])
    found = discover(x, KnownTickets(), DiscoveryConfig(max_tickets=2))
    assert found.new == (0, 1)
    assert found.capped == 2


@pytest.mark.parametrize("labels", [True, False])
def test_a_group_beyond_the_cap_counts_once(labels: bool) -> None:
    parts = [domain(number, 150, seed=1) for number in (0, 1)]
    found = discover(
        torch.cat([x for x, _ in parts]),
        known_domains(0),
        DiscoveryConfig(max_tickets=1),
        targets=np.concatenate([y for _, y in parts]) if labels else None,
    )
    assert (found.new, found.capped) == ((), 1)


def test_a_bank_that_was_reopened_decides_as_before() -> None:
    x = domain(0, 80)[0]
    known = KnownTickets()
    known.learn(x)
    stored = [mixture.tensors() for mixture in known.mixtures]
    reopened = KnownTickets([FeatureMixture(tensors) for tensors in stored])
    again = domain(0, 80, seed=1)[0]
    assert torch.equal(reopened.surprise(again), known.surprise(again))
    del stored[0]["held_out"]  # as tickets were stored once: the mixture fits its few samples best
    older = KnownTickets([FeatureMixture(stored[0])])
    assert older.surprise(again).median() > 2 * known.surprise(again).median()


def test_known_domains_that_arrive_as_one_group_are_known() -> None:
    parts = [domain(number, 150, seed=1) for number in (0, 1, 2)]
    x, y = torch.cat([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    one = DiscoveryConfig.model_validate(
        {"clusterer": {"name": "gaussian_mixture", "max_clusters": 1}}
    )
    assert discover(x, known_domains(0, 1, 2), one, targets=y).new == ()
    assert discover(x, known_domains(0), one, targets=y).new == (1,)


def test_known_samples_that_outliers_sweep_along_are_no_support() -> None:
    known = KnownTickets()
    x, y = domain(0, 400)
    known.learn(x)
    config = DiscoveryConfig(min_support=50)
    for outliers, new in ((30, ()), (60, (1,))):
        few, labels = domain(3, outliers)
        found = discover(
            torch.cat([x[:100], few + 40]), known, config, targets=np.concatenate([y[:100], labels])
        )
        assert found.new == new


def test_groups_by_class_keep_their_members() -> None:
    x, y = domain(0, 500)
    config = DiscoveryConfig.model_validate({"clusterer": {"name": "classes"}})
    found = discover(x, KnownTickets(), config, targets=y)
    assert found.new == (0, 1, 2, 3, 4)
    assert adjusted_rand_score(y, found.ticket_ids) == 1.0


def test_same_input_same_answer() -> None:
    x = torch.cat([domain(number, 150)[0] for number in range(3)])
    answers = [discover(x, KnownTickets()).ticket_ids for _ in range(2)]
    assert np.array_equal(*answers)


def test_one_sample_and_constant_images_are_no_ticket() -> None:
    assert discover(torch.zeros(1, WIDTH), KnownTickets()).new == ()
    one = discover(torch.zeros(1, WIDTH), known_domains(0))
    assert one.new == ()
    flat = discover(torch.ones(200, WIDTH), KnownTickets())
    assert flat.new == (0,)
    assert flat.outliers == 0


def test_equal_images_are_one_cluster_however_many_features_they_have() -> None:
    for value in (0.0, 0.5):
        found = discover(torch.full((200, 96), value), KnownTickets())
        assert (found.new, found.outliers) == ((0,), 0)


@pytest.mark.parametrize("known", [KnownTickets(), known_domains(0)], ids=["empty", "grown"])
def test_bad_input_is_named(known: KnownTickets) -> None:
    with pytest.raises(DataError, match="batch is empty"):
        discover(torch.zeros(0, WIDTH), known)
    broken = domain(0, 50)[0]
    broken[17, 3] = torch.nan
    broken[30, 0] = torch.inf
    with pytest.raises(DataError, match=r"sample 17 \(and 1 more\) are not finite"):
        discover(broken, known)
    with pytest.raises(DataError, match=r"must be \[samples, features\]"):
        discover(torch.zeros(WIDTH), known)


def test_other_features_than_the_tickets_are_refused() -> None:
    with pytest.raises(DataError, match="got 3 router features per sample, the tickets have 12"):
        discover(torch.zeros(60, 3), known_domains(0))
    known = known_domains(0)
    with pytest.raises(DataError, match="tickets have 12"):
        known.learn(torch.randn(60, 3))


def test_config_takes_sections_by_name_and_names_what_is_unknown() -> None:
    config = DiscoveryConfig.model_validate(
        {"clusterer": {"name": "kmeans", "clusters": 3}, "detector": {"name": "adwin"}}
    )
    assert DiscoveryConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValidationError, match="unknown clusterer 'kmean'; did you mean 'kmeans'"):
        DiscoveryConfig.model_validate({"clusterer": {"name": "kmean"}})
    with pytest.raises(ValidationError, match="unknown shift detector"):
        DiscoveryConfig.model_validate({"detector": {"name": "x"}})
