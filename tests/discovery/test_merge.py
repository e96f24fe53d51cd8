"""Proposals to merge tickets."""

from __future__ import annotations

import pytest
import torch

from rtl_continual.discovery import KnownTickets, merge_proposals
from rtl_continual.errors import DataError
from rtl_continual.tickets import Mask, MaskLayout


def test_only_equal_masks_on_one_cluster_are_proposed() -> None:
    layout = MaskLayout({"w": (40, 50)})
    draw = torch.Generator().manual_seed(0)
    bits = torch.rand(3, 2000, generator=draw) < 0.2
    masks = [Mask.from_flat(layout, part) for part in (bits[0], bits[0], bits[1], bits[0])]
    known = KnownTickets()
    for shift in (0.0, 0.0, 0.0, 25.0):
        known.learn(torch.randn(200, 6, generator=draw) + shift)
    proposals = merge_proposals(masks, known)
    assert [p.tickets for p in proposals] == [(0, 1)]
    assert proposals[0].similarity == pytest.approx(1.0)
    assert proposals[0].valley > 0.3
    with pytest.raises(DataError, match="3 masks for 4 mixtures"):
        merge_proposals(masks[:3], known)
