"""Mirrored and shifted samples."""

from __future__ import annotations

import pytest
import torch

from rtl_continual.training import _augment, random_flip, random_shift


def test_about_half_are_mirrored_and_the_rest_stays() -> None:
    x = torch.arange(200 * 12.0).view(200, 2, 2, 3)
    out = random_flip(x, torch.Generator().manual_seed(0))
    same = (out == x).flatten(1).all(dim=1)
    mirrored = (out == x.flip(3)).flatten(1).all(dim=1)
    assert bool((same ^ mirrored).all())
    assert 70 < int(mirrored.sum()) < 130


def test_memory_order_stays() -> None:
    x = torch.rand(4, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    out = random_flip(x, torch.Generator().manual_seed(1))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_bytes_stay_bytes() -> None:
    x = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8)
    assert random_flip(x, torch.Generator().manual_seed(1)).dtype == torch.uint8


def test_shifted_samples_have_repeated_edges() -> None:
    x = torch.arange(2 * 3 * 5 * 4.0).view(2, 3, 5, 4)
    generator = torch.Generator().manual_seed(3)
    offsets = torch.randint(-2, 3, (2, 2), generator=torch.Generator().manual_seed(3))
    moved = random_shift(x, 2, generator)
    assert moved.shape == x.shape
    assert moved.is_contiguous(memory_format=torch.channels_last)
    assert offsets.any()
    for i in range(2):
        for row in range(5):
            for column in range(4):
                source_row = min(max(row + int(offsets[0, i]), 0), 4)
                source_column = min(max(column + int(offsets[1, i]), 0), 3)
                assert torch.equal(moved[i, :, row, column], x[i, :, source_row, source_column])


def test_shifts_reach_their_limit_in_every_direction_and_not_beyond() -> None:
    x = torch.arange(9.0).repeat(400, 1, 1, 1).view(400, 1, 1, 9)
    moved = random_shift(x, 2, torch.Generator().manual_seed(0))
    assert set((moved[:, 0, 0, 4] - 4).tolist()) == {-2, -1, 0, 1, 2}
    assert torch.equal(random_shift(x, 0, torch.Generator().manual_seed(0)), x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_samples_are_copied_by_rows_to_the_same_result(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (40, 3, 6, 5), generator=draw, dtype=torch.uint8)
    x = x.contiguous(memory_format=layout)
    expected = random_shift(x, 4, torch.Generator().manual_seed(1))
    monkeypatch.setattr(_augment, "_LARGE", 1)
    moved = random_shift(x, 4, torch.Generator().manual_seed(1))
    assert torch.equal(moved, expected)
    assert moved.stride() == x.stride()
    assert not torch.equal(moved, x)
    far = random_shift(x, 9, torch.Generator().manual_seed(1))  # beyond the other edge
    monkeypatch.undo()
    assert torch.equal(far, random_shift(x, 9, torch.Generator().manual_seed(1)))
    assert random_shift(x[:0], 2, draw).shape == (0, 3, 6, 5)
