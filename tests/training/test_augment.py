"""Mirrored samples."""

from __future__ import annotations

import torch

from rtl_continual.training import random_flip


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
