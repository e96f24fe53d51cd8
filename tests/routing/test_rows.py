from __future__ import annotations

import copy

import pytest
import torch

from rtl_continual.routing._rows import Rows


@pytest.mark.parametrize("start", [0, 1, 5, 40])
def test_rows_are_kept_as_they_come(start: int) -> None:
    rows = torch.arange(400.0).reshape(200, 2)
    grown = Rows(rows[:start].reshape(start, 2))
    for row in rows[start:]:
        grown.append(row)
        assert torch.equal(grown.values, rows[: len(grown)])
    assert len(grown) == 200


def test_a_view_outlives_growth() -> None:
    rows = Rows(torch.zeros(3, 2))
    view = rows.values
    for _ in range(100):
        rows.append(torch.ones(2))
    assert torch.equal(view, torch.zeros(3, 2))


@pytest.mark.parametrize("start", range(20, 45))
@pytest.mark.parametrize("first", ["copy", "original"])
def test_a_copy_and_its_original_grow_apart(start: int, first: str) -> None:
    # The starts cover memory that is half full, three quarters full, full, and new.
    original = Rows(torch.zeros(10, 1))
    for number in range(10, start):
        original.append(torch.tensor([float(number)]))
    before = original.values.clone()
    twin = copy.deepcopy(original)
    one, other = (twin, original) if first == "copy" else (original, twin)
    for number in range(30):
        one.append(torch.tensor([100.0 + number]))
    for number in range(30):
        other.append(torch.tensor([200.0 + number]))
    for rows, value in ((one, 100.0), (other, 200.0)):
        assert torch.equal(rows.values[:start], before)
        assert torch.equal(rows.values[start:, 0], value + torch.arange(30.0))


def test_copying_costs_no_row() -> None:
    rows = Rows(torch.zeros(1000, 4))
    twin = copy.deepcopy(rows)
    assert twin.values.data_ptr() == rows.values.data_ptr()
    twin.append(torch.ones(4))
    assert twin.values.data_ptr() == rows.values.data_ptr()
    assert (len(rows), len(twin)) == (1000, 1001)
