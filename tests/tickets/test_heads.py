"""Attention heads as units."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.vision_transformer import EncoderBlock

from rtl_continual.backbones import Backbone
from rtl_continual.backbones._clip import _Block
from rtl_continual.errors import BankError
from rtl_continual.tasks import Classification
from rtl_continual.tickets import (
    Mask,
    Ticket,
    TicketBank,
    TicketInfo,
    UnitGroup,
    UnitScores,
    find_units,
    magnitude_scores,
)
from rtl_continual.tickets._attention import HeadAttention
from rtl_continual.tickets._units import unit_mask

WIDTH, HEADS = 16, 4


class Attending(nn.Module):
    """One attention layer, called as ``call`` says."""

    def __init__(self, call: Callable[[Any, Any], Any], **options: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True, **options})
        self.other = nn.Linear(WIDTH, WIDTH)
        self.call = call

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.call(self, x)


def blocks(count: int = 2) -> nn.Sequential:
    """Of torchvision's kind, and none of its parameters zero."""
    body = nn.Sequential(*(EncoderBlock(HEADS, WIDTH, 24, 0.0, 0.0) for _ in range(count)))
    for parameter in body.parameters():
        nn.init.normal_(parameter, std=0.5)
    return body


def bank_of(body: nn.Module) -> TicketBank:
    return TicketBank(Backbone("toy", nn.Identity(), body, feature_dim=WIDTH), Classification(3))


def append(bank: TicketBank, keep: torch.Tensor) -> None:
    state = bank.backbone.body.state_dict()
    norm = {name: state[name] for name in bank.norm_names}
    head = bank.task.build_head(bank.backbone.feature_dim).state_dict()
    mask = Mask.from_flat(bank.layout, keep)
    bank.append(Ticket(len(bank), mask, norm, head, {}, TicketInfo(f"{len(bank)}")))


def drop_heads(bank: TicketBank, *kept: int) -> None:
    """Append a ticket with these heads of every group of heads, and every other unit."""
    groups = find_units(bank.backbone.body)
    choice = {group.producer: torch.ones(group.size, dtype=torch.bool) for group in groups}
    for group in groups:
        if group.heads:
            choice[group.producer][:] = False
            choice[group.producer][list(kept)] = True
    append(bank, unit_mask(bank.layout, groups, choice))


def flops(module: nn.Module, x: torch.Tensor) -> int:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            module(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


def test_heads_and_hidden_features_are_found_in_the_bodys_order() -> None:
    assert find_units(blocks(1)) == (
        UnitGroup("0.self_attention", (), "0.self_attention.out_proj", HEADS, heads=True),
        UnitGroup("0.mlp.0", (), "0.mlp.3", 24),
    )
    assert find_units(nn.Sequential(_Block()))[0] == UnitGroup(
        "0.attn", (), "0.attn.out_proj", 12, heads=True
    )


def test_a_mask_drops_a_heads_rows_and_columns() -> None:
    bank = bank_of(blocks(1))
    drop_heads(bank, 0, 2)
    mask = bank[0].mask
    dropped = torch.tensor([False] * 4 + [True] * 4 + [False] * 4 + [True] * 4)
    rows = mask.layer("0.self_attention.in_proj_weight")
    assert torch.equal(rows, ~dropped.repeat(3)[:, None].expand(3 * WIDTH, WIDTH))
    columns = mask.layer("0.self_attention.out_proj.weight")
    assert torch.equal(columns, ~dropped.expand(WIDTH, WIDTH))
    assert mask.layer("0.mlp.0.weight").all()


def without_weights(m: Any, x: Any) -> Any:
    return m.attn(x, x, x, need_weights=False)[0]


def with_weights(m: Any, x: Any) -> Any:
    out, _ = m.attn(x, x, x)
    return out


@pytest.mark.parametrize("kept", [(1, 2, 3), (2,), (0, 1, 2, 3)])
@pytest.mark.parametrize(
    "make",
    [
        blocks,
        lambda: Attending(without_weights),
        lambda: Attending(without_weights, batch_first=False),
        lambda: Attending(without_weights, bias=False),
        lambda: Attending(with_weights),
    ],
    ids=["blocks", "plain", "tokens_first", "no_bias", "with_weights"],
)
def test_the_small_network_gives_the_masked_ones_outputs(
    make: Callable[[], nn.Module], kept: tuple[int, ...]
) -> None:
    body = make()
    for name, parameter in body.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    bank = bank_of(body)
    drop_heads(bank, *kept)
    slim = bank.extract(0)
    x = torch.randn(3, 7, WIDTH)
    with torch.no_grad():
        masked, small = bank.run_ticket(0, x), slim(x)
        dense = slim[1](body(x))
    assert masked.std() > 0
    torch.testing.assert_close(small / masked.std(), masked / masked.std(), rtol=1e-5, atol=1e-5)
    kinds = [type(module) for module in slim.modules()]
    if len(kept) == HEADS:
        torch.testing.assert_close(small, dense)
        assert HeadAttention not in kinds
        return
    assert (small - dense).abs().max() > 1e-3
    assert nn.MultiheadAttention not in kinds
    gone = HEADS - len(kept)
    count = sum(p.numel() for p in body.parameters()) - sum(
        p.numel() for p in slim.body.parameters()
    )
    biases = sum(p.numel() for n, p in body.named_parameters() if n.endswith("in_proj_bias"))
    assert count == bank.layout.total - bank[0].mask.kept + biases * gone // HEADS
    assert flops(slim.body, x) < flops(body, x)
    left = [module.num_heads for module in slim.modules() if isinstance(module, HeadAttention)]
    assert set(left) == {len(kept)}


def test_a_clip_block_is_cut_too() -> None:
    torch.manual_seed(0)
    backbone = Backbone("toy", nn.Identity(), nn.Sequential(_Block()), feature_dim=768)
    bank = TicketBank(backbone, Classification(3))
    drop_heads(bank, 0, 5, 11)
    slim = bank.extract(0)
    assert slim.body[0].attn.in_proj_weight.shape == (3 * 3 * 64, 768)
    x = torch.randn(2, 5, 768)
    with torch.no_grad():
        masked, small = bank.run_ticket(0, x), slim(x)
    torch.testing.assert_close(small / masked.std(), masked / masked.std(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.6, 0.8])
def test_the_budget_is_kept(sparsity: float) -> None:
    bank = bank_of(blocks())
    weights = bank.layout.flatten(dict(bank.backbone.body.named_parameters())).detach()
    groups = find_units(bank.backbone.body)
    scores = UnitScores(bank.layout, weights, magnitude_scores(bank.layout, weights), groups)
    scores.binarise(sparsity)
    # A head is a sixteenth of these two blocks' weights, at most one stands at the edge.
    assert sparsity <= scores.mask().sparsity + 1e-9 < sparsity + 1 / 16


def test_one_head_is_always_kept() -> None:
    bank = bank_of(blocks())
    weights = bank.layout.flatten(dict(bank.backbone.body.named_parameters())).detach()
    groups = find_units(bank.backbone.body)
    scores = UnitScores(bank.layout, weights, magnitude_scores(bank.layout, weights), groups)
    scores.binarise(0.99)
    layers = bank.layout.unflatten(scores.keep)
    for group in groups:
        views = group.by_unit(layers)
        assert [int(v.flatten(1).any(dim=1).sum()) for v in views.values()] == [1, 1]
    name = "0.self_attention.in_proj_weight"
    scores.limit(name, 0.5)
    scores.binarise(0.99)
    assert int(groups[0].outputs(scores.mask().layer(name)).flatten(1).all(dim=1).sum()) == 2
    append(bank, torch.zeros(bank.layout.total))
    slim = bank.extract(0)
    assert slim.body[0].self_attention.num_heads == 1


def test_what_is_extracted_can_be_pickled_and_exported() -> None:
    bank = bank_of(blocks())
    drop_heads(bank, 1, 3)
    slim = bank.extract(0).eval()
    x = torch.randn(2, 7, WIDTH)
    expected = slim(x)
    assert torch.equal(pickle.loads(pickle.dumps(slim))(x), expected)
    batch = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(slim, (x,), dynamic_shapes=batch).module()
    torch.testing.assert_close(program(x), expected)
    torch.testing.assert_close(program(x.repeat(3, 1, 1)), expected.repeat(3, 1, 1))


@pytest.mark.parametrize(
    "body",
    [
        Attending(lambda m, x: m.attn(x, x, m.other(x))[0]),
        Attending(lambda m, x: m.attn(x, x, x)[1] @ x),
        Attending(lambda m, x: m.attn(x, x, x)[:1][0]),
        Attending(lambda m, x: m.attn(x, x, x, attn_mask=m.other.weight)[0]),
        Attending(lambda m, x: m.attn(x, x, x, is_causal=True, attn_mask=x)[0]),
        Attending(lambda m, x: m.attn(m.attn(x, x, x)[0], x, x)[0]),
        Attending(lambda m, x: m.attn.out_proj(m.attn(x, x, x)[0])),
        Attending(lambda m, x: m.attn(x, x, x)[0] @ m.attn.in_proj_weight.T),
        Attending(lambda m, x: m.attn(x, x, x)[0] @ m.attn.out_proj.weight),
        Attending(lambda m, x: m.attn(x, x, x)[0], add_bias_kv=True),
        Attending(lambda m, x: m.attn(x, x, x)[0], add_zero_attn=True),
        Attending(lambda m, x: m.attn(x, x, x)[0], kdim=8),
    ],
    ids=[
        "cross", "weights", "tuple", "mask", "causal", "twice", "out_proj", "in_weight",
        "out_weight", "bias_kv", "zero", "kdim",
    ],
)  # fmt: skip
def test_heads_that_something_else_depends_on_are_no_units(body: nn.Module) -> None:
    with pytest.raises(BankError, match="this body has none"):
        find_units(body)
