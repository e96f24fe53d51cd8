from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtl_continual.tickets import cubic_sparsity

FRACTION = st.floats(0, 0.99)


@given(st.integers(1, 500), FRACTION, FRACTION, st.floats(0.05, 1))
def test_rises_from_start_to_target_and_stays(
    total: int, one: float, other: float, ramp: float
) -> None:
    start, target = sorted((one, other))
    values = [cubic_sparsity(step, total, start, target, ramp) for step in range(total + 1)]
    assert values[0] == pytest.approx(start)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
    reached = [v for step, v in enumerate(values) if step >= max(1.0, ramp * total)]
    assert reached
    assert all(v == target for v in reached)


@pytest.mark.parametrize(("step", "left"), [(0, 1.0), (10, 0.75**3), (20, 0.125), (40, 0.0)])
def test_what_is_left_of_the_way_is_cubic(step: int, left: float) -> None:
    # Zhu and Gupta (2017), equation 1: s_f + (s_i - s_f)(1 - t / n)^3, here with n = 40.
    assert cubic_sparsity(step, 80, 0.2, 0.9, 0.5) == pytest.approx(0.9 - 0.7 * left)
