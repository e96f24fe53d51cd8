"""Class counts and arrival times."""

from __future__ import annotations

import numpy as np
import pytest

from rtl_continual.streams._compose import arrival_times, class_weights, take_counts


def test_weights_fall_exponentially_and_shift() -> None:
    assert class_weights(3, 100, 0) == pytest.approx([1, 0.1, 0.01])
    assert class_weights(3, 100, 1) == pytest.approx([0.01, 1, 0.1])
    assert class_weights(1, 100, 0).tolist() == [1]


@pytest.mark.parametrize("cap", [10, 11, 37, 200, 10_000])
@pytest.mark.parametrize("imbalance", [1, 7, 50, 1000])
def test_counts_stay_within_cap_and_supply(cap: int, imbalance: float) -> None:
    available = np.array([100, 90, 120, 100, 100, 100, 95, 100, 100, 100])
    counts = take_counts(available, class_weights(10, imbalance, 3), cap)
    assert counts.sum() <= cap
    assert counts.min() >= 1
    assert (counts <= available).all()
    if imbalance == 1 and cap <= 900:
        assert counts.sum() == cap
        assert counts.max() - counts.min() <= 1


def test_no_cap_and_no_imbalance_takes_everything() -> None:
    assert take_counts(np.array([3, 5]), np.ones(2), None).tolist() == [3, 5]


def test_arrivals_fill_their_own_experience_without_blur() -> None:
    times = arrival_times(100, 2, 5, 0.0, np.random.default_rng(0))
    assert np.sort(times) == pytest.approx(2 + (np.arange(100) + 0.5) / 100)
    assert not np.array_equal(times, np.sort(times))


def test_blurred_arrivals_never_leave_the_stream() -> None:
    rng = np.random.default_rng(0)
    times = np.concatenate([arrival_times(1000, i, 2, 1.0, rng) for i in range(2)])
    assert times.min() >= 0
    assert times.max() < 2
