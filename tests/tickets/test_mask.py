from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rtl_continual.errors import BankError
from rtl_continual.tickets import Mask, MaskLayout, norm_state_names, union

SHAPES = st.lists(
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5
)


def make_layout(shapes: list[tuple[int, ...]]) -> MaskLayout:
    return MaskLayout({f"layer{i}.weight": shape for i, shape in enumerate(shapes)})


def random_keep(layout: MaskLayout, seed: int, density: float = 0.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(layout.total, generator=generator) < density


@given(SHAPES, st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_packing_loses_nothing(shapes: list[tuple[int, ...]], seed: int, density: float) -> None:
    layout = make_layout(shapes)
    keep = random_keep(layout, seed, density)
    mask = Mask.from_flat(layout, keep)
    assert torch.equal(mask.to_flat(), keep)
    for name, part in layout.unflatten(keep).items():
        assert torch.equal(mask.layer(name), part)
        assert mask.counts[name] == int(part.sum())
        assert mask.layer_density()[name] == pytest.approx(float(part.float().mean()))
    assert mask.kept == int(keep.sum())
    assert mask.sparsity == pytest.approx(1 - float(keep.float().mean()))
    assert Mask(layout, mask.bits) == mask
    assert hash(Mask(layout, mask.bits)) == hash(mask)


@given(SHAPES, st.integers(0, 1000))
def test_each_layer_has_bytes_of_its_own(shapes: list[tuple[int, ...]], seed: int) -> None:
    layout = make_layout(shapes)
    keep = random_keep(layout, seed)
    mask = Mask.from_flat(layout, keep)
    assert layout.num_bytes == sum(math.ceil(math.prod(shape) / 8) for shape in shapes)
    start = 0
    for name, part in layout.unflatten(keep).items():
        first, stop = layout.byte_ranges[name]
        assert first == start
        # Bit i of a layer is bit i % 8 of its byte i // 8, written out by hand.
        by_hand = [bool(mask.bits[first + i // 8] >> (i % 8) & 1) for i in range(part.numel())]
        assert by_hand == part.flatten().tolist()
        start = stop
    assert start == layout.num_bytes


@given(SHAPES, st.integers(0, 1000), st.integers(0, 1000))
def test_overlap_and_union_agree_with_sets(
    shapes: list[tuple[int, ...]], seed_a: int, seed_b: int
) -> None:
    layout = make_layout(shapes)
    keep_a, keep_b = random_keep(layout, seed_a, 0.6), random_keep(layout, seed_b, 0.3)
    a, b = Mask.from_flat(layout, keep_a), Mask.from_flat(layout, keep_b)

    def brute(x: torch.Tensor, y: torch.Tensor) -> float:
        kept_x = set(x.flatten().nonzero().flatten().tolist())
        kept_y = set(y.flatten().nonzero().flatten().tolist())
        return len(kept_x & kept_y) / len(kept_x | kept_y) if kept_x | kept_y else 1.0

    assert a.jaccard(b) == b.jaccard(a) == brute(keep_a, keep_b)
    parts_a, parts_b = layout.unflatten(keep_a), layout.unflatten(keep_b)
    assert a.layer_jaccard(b) == {name: brute(parts_a[name], parts_b[name]) for name in parts_a}
    assert torch.equal(union([a, b]).to_flat(), keep_a | keep_b)
    assert union([a]) == a


def test_flatten_is_the_inverse_of_unflatten() -> None:
    layout = make_layout([(2, 3), (4, 1, 2)])
    flat = torch.arange(14.0)
    parts = layout.unflatten(flat)
    assert [tuple(part.shape) for part in parts.values()] == [(2, 3), (4, 1, 2)]
    assert torch.equal(layout.flatten(parts), flat)


def test_a_mask_cannot_be_written_to() -> None:
    layout = make_layout([(3, 3)])
    bits = np.zeros(layout.num_bytes, dtype=np.uint8)
    mask = Mask(layout, bits)
    bits[0] = 255
    assert mask.kept == 0
    with pytest.raises(ValueError, match="read-only"):
        mask.bits[0] = 1
    mask.layer("layer0.weight").fill_(True)
    assert mask.kept == 0


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (np.zeros(2, dtype=np.int64), r"must be uint8 \[2\], got int64 \[2\]"),
        (np.zeros(3, dtype=np.uint8), r"must be uint8 \[2\], got uint8 \[3\]"),
        (np.zeros((2, 1), dtype=np.uint8), r"must be uint8 \[2\], got uint8 \[2, 1\]"),
        (np.array([0, 2], dtype=np.uint8), "'layer0.weight' are set beyond its last weight"),
    ],
)
def test_wrong_bits_are_refused(bits: np.ndarray, message: str) -> None:
    with pytest.raises(BankError, match=message):
        Mask(make_layout([(3, 3)]), bits)


def test_no_masks_have_no_union() -> None:
    with pytest.raises(BankError, match="union of no masks"):
        union([])


@pytest.mark.parametrize("compare", [Mask.jaccard, Mask.layer_jaccard, lambda a, b: union([a, b])])
def test_masks_over_different_bodies_are_not_compared(
    compare: Callable[[Mask, Mask], object],
) -> None:
    first, second = make_layout([(2, 8)]), make_layout([(4, 4)])
    masks = [Mask.from_flat(layout, random_keep(layout, 0)) for layout in (first, second)]
    with pytest.raises(BankError, match="different bodies"):
        compare(*masks)


class Mixed(nn.Module):
    """Weights of every kind a body may have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.batch = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.layer = nn.LayerNorm((2, 4))
        self.group = nn.GroupNorm(2, 4)
        self.linear = nn.Linear(4, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))


def test_weights_of_layers_are_masked_and_norms_and_biases_are_not() -> None:
    layout = MaskLayout.of(Mixed())
    assert dict(layout.shapes) == {
        "conv.weight": (4, 3, 3, 3),
        "attention.in_proj_weight": (12, 4),
        "attention.out_proj.weight": (4, 4),
        "linear.weight": (2, 4),
    }


def test_norm_state_is_affine_parameters_and_running_statistics() -> None:
    assert norm_state_names(Mixed()) == (
        "batch.weight",
        "batch.bias",
        "batch.running_mean",
        "batch.running_var",
        "batch.num_batches_tracked",
        "layer.weight",
        "layer.bias",
        "group.weight",
        "group.bias",
    )
    assert norm_state_names(nn.BatchNorm1d(2, affine=False)) == (
        "running_mean",
        "running_var",
        "num_batches_tracked",
    )


def test_a_body_without_weights_cannot_be_masked() -> None:
    with pytest.raises(BankError, match="nothing to mask"):
        MaskLayout.of(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))
