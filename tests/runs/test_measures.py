"""Measures, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rtl_continual.errors import DataError
from rtl_continual.runs._evaluation import evaluation_sets
from rtl_continual.runs._frequency import class_groups, group_names, recall_by_frequency
from rtl_continual.runs._measures import (
    average_accuracy,
    backward_transfer,
    forgetting,
    home_experiences,
    method_measures,
    pooled_average_accuracy,
)
from rtl_continual.streams import ArraySet, Experience, Stream

MATRIX = np.array([[0.9, 0.2, 0.1], [0.95, 0.8, 0.3], [0.5, 0.7, 0.6]])
DIAGONAL = np.array([0, 1, 2])


def test_average_accuracy_is_the_mean_over_stages_of_the_seen_domains() -> None:
    expected = (0.9 + (0.95 + 0.8) / 2 + (0.5 + 0.7 + 0.6) / 3) / 3
    assert average_accuracy(MATRIX, DIAGONAL) == pytest.approx(expected)


def test_pooled_average_accuracy_counts_images() -> None:
    few, many = np.array([[1, 1, 0], [0, 0, 0]]), np.array([[3, 0, 0], [1, 4, 0]])
    # Alone the first domain has 1 of 2 right; then both have 1 + 7 of 2 + 8.
    stages = [[few, many], [few, many]]
    expected = (1 / 2 + 8 / 10) / 2
    assert pooled_average_accuracy(stages, np.array([0, 1])) == pytest.approx(expected)
    found = method_measures(stages, ("few", "many"), np.array([0, 1]))
    assert found["average_accuracy_sample_weighted"] == pytest.approx(expected)
    assert found["average_accuracy"] == pytest.approx((1 / 2 + (1 / 2 + 7 / 8) / 2) / 2)


def test_forgetting_counts_from_the_best_so_far() -> None:
    assert forgetting(MATRIX, DIAGONAL) == pytest.approx(((0.95 - 0.5) + (0.8 - 0.7)) / 2)


def test_backward_transfer_counts_from_when_a_domain_was_learned() -> None:
    assert backward_transfer(MATRIX, DIAGONAL) == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)


def test_domains_that_arrive_together_are_seen_together() -> None:
    homes = np.array([0, 0, 1])
    matrix = MATRIX[:2]
    expected = ((0.9 + 0.2) / 2 + (0.95 + 0.8 + 0.3) / 3) / 2
    assert average_accuracy(matrix, homes) == pytest.approx(expected)
    assert forgetting(matrix, homes) == pytest.approx(((0.9 - 0.95) + (0.2 - 0.8)) / 2)
    assert backward_transfer(matrix, homes) == pytest.approx(((0.95 - 0.9) + (0.8 - 0.2)) / 2)


def test_a_domain_that_nothing_is_learned_from_is_never_seen() -> None:
    parts = [ArraySet(np.zeros((n, 3, 2, 2), np.uint8), np.zeros(n, np.int64), 1) for n in (2, 3)]
    stream = Stream(
        name="toy",
        classes=("a",),
        domains=("new", "known"),
        experiences=tuple(Experience("known", part, part) for part in parts),
        tests={"new": parts[0], "known": parts[1]},
    )
    homes = home_experiences(stream)
    assert homes.tolist() == [2, 1]
    right, wrong = np.array([[1, 0]]), np.array([[0, 3]])
    found = method_measures([[right, right], [wrong, right]], stream.domains, homes)
    assert found["final"]["accuracy_unlearned_domains"] == 0
    assert found["average_accuracy"] == 1
    assert found["forgetting"] is None
    known = method_measures([[right]], ("known",), np.array([0]))
    assert "accuracy_unlearned_domains" not in known["final"]


def test_one_experience_leaves_nothing_to_forget() -> None:
    assert forgetting(MATRIX[:1, :1], np.array([0])) is None
    assert backward_transfer(MATRIX[:1, :1], np.array([0])) is None
    assert average_accuracy(MATRIX[:1, :1], np.array([0])) == pytest.approx(0.9)


def test_large_domains_count_more_only_where_said() -> None:
    small = np.array([[1, 1, 0], [0, 0, 0]])  # one of two right, all of class 0
    large = np.array([[3, 0, 0], [1, 4, 0]])  # 3 of 3 and 4 of 5
    found = method_measures([[small, large]], ("small", "large"), np.array([0, 0]))
    final = found["final"]
    assert final["accuracy_by_domain"] == {"small": 0.5, "large": 7 / 8}
    assert final["balanced_accuracy_by_domain"] == {"small": 0.5, "large": pytest.approx(0.9)}
    assert final["accuracy_sample_weighted"] == pytest.approx(8 / 10)
    assert final["accuracy_domain_mean"] == pytest.approx((0.5 + 7 / 8) / 2)
    assert final["balanced_accuracy_domain_mean"] == pytest.approx(0.7)
    assert final["recall_by_class_by_domain"] == {"small": [0.5, None], "large": [1.0, 0.8]}
    assert final["recall_macro_by_domain"] == final["balanced_accuracy_by_domain"]
    assert found["forgetting"] is None


def long_tail(counts: list[list[int]]) -> Stream:
    """Training images by domain and class."""
    classes = len(counts[0])
    sets = [
        ArraySet(
            np.zeros((sum(row), 3, 2, 2), np.uint8), np.repeat(np.arange(classes), row), domain
        )
        for domain, row in enumerate(counts)
    ]
    names = tuple(f"d{i}" for i in range(len(counts)))
    return Stream(
        name="tail",
        classes=tuple("abcdefg"[:classes]),
        domains=names,
        experiences=tuple(Experience(n, s, s) for n, s in zip(names, sets, strict=True)),
        tests=dict(zip(names, sets, strict=True)),
    )


def test_head_and_tail_are_thirds_of_each_domain_on_its_own() -> None:
    stream = long_tail([[50, 20, 9, 4, 3, 2, 1], [1, 2, 3, 4, 9, 20, 50]])
    groups = class_groups(stream)
    assert groups is not None
    assert groups.tolist() == [[0, 0, 1, 1, 1, 2, 2], [2, 2, 1, 1, 1, 0, 0]]
    assert group_names(stream, groups)["d1"] == {
        "head": ["f", "g"],
        "middle": ["c", "d", "e"],
        "tail": ["a", "b"],
    }


def test_a_balanced_stream_has_no_groups() -> None:
    assert class_groups(long_tail([[4, 4, 3], [4, 4, 1]])) is None
    assert class_groups(long_tail([[50, 1]])) is None
    assert class_groups(long_tail([[4, 4, 3], [5, 2, 1]])) is not None


def test_recall_by_frequency_is_a_mean_over_classes_then_domains() -> None:
    recalls = {"x": np.array([1.0, 0.5, 0.25, 0.0]), "y": np.array([0.1, np.nan, 0.3, 0.9])}
    found = recall_by_frequency(recalls, np.array([[0, 0, 1, 2], [2, 2, 1, 0]]))
    assert found["recall_by_frequency_by_domain"] == {
        "x": {"head": 0.75, "middle": 0.25, "tail": 0.0},
        "y": {"head": 0.9, "middle": 0.3, "tail": 0.1},
    }
    assert found["recall_by_frequency"] == pytest.approx(
        {"head": 0.825, "middle": 0.275, "tail": 0.05}
    )


def part(domains: list[int]) -> ArraySet:
    images = np.full((len(domains), 3, 2, 2), 9, np.uint8)
    images[:, 0, 0, 0] = domains
    return ArraySet(images, [0] * len(domains), np.array(domains, dtype=np.int64))


def blurred_stream(validations: tuple[list[int], list[int]]) -> Stream:
    trains = ([0, 0, 0, 1], [1, 1, 0])
    return Stream(
        name="blurred",
        classes=("a",),
        domains=("x", "y"),
        experiences=tuple(
            Experience(f"e{i}", part(train), part(validation))
            for i, (train, validation) in enumerate(zip(trains, validations, strict=True))
        ),
        tests={"x": part([0, 0]), "y": part([1])},
    )


def test_a_domain_is_at_home_where_most_of_it_is() -> None:
    assert home_experiences(blurred_stream(([0], [1]))).tolist() == [0, 1]


def test_validation_images_are_sorted_by_domain() -> None:
    stream = blurred_stream(([0, 1, 0], [1, 0]))
    sets = evaluation_sets(stream, "validation")
    assert {name: len(found) for name, found in sets.items()} == {"x": 3, "y": 2}
    for index, found in enumerate(sets.values()):
        images, _ = found.batch(range(len(found)))
        assert set(found.domains.tolist()) == {index}
        assert images[:, 0, 0, 0].tolist() == found.domains.tolist()
    assert evaluation_sets(stream, "test") == stream.tests


def test_a_domain_without_validation_images_is_told() -> None:
    with pytest.raises(DataError, match="stream 'blurred' has none of 'y'"):
        evaluation_sets(blurred_stream(([0], [0])), "validation")
