from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from rtl_continual.backbones import Backbone, build_backbone
from rtl_continual.errors import BankError
from rtl_continual.tasks import Classification
from rtl_continual.tickets import (
    Mask,
    Ticket,
    TicketBank,
    TicketInfo,
    UnitScores,
    find_units,
)

# The last stages alone, so that the tests stay fast.
NETWORKS = {
    "glyphnet": {"width": 8},
    "resnet18": {"input_size": 32, "split": "layer4_0"},
    "resnet50": {"input_size": 32, "split": "layer4_1"},
    "mobilenet_v2": {"input_size": 32, "split": "block15"},
    "efficientnet_lite0": {"input_size": 32, "split": "stage5_2"},
    "vit_b_32": {"input_size": 32, "split": "block11"},
}


def unit_scores(bank: TicketBank, floor: float = 0.1) -> UnitScores:
    layout = bank.layout
    weights = layout.flatten(dict(bank.backbone.body.named_parameters())).detach()
    initial = torch.randn(layout.total, generator=torch.Generator().manual_seed(0))
    return UnitScores(layout, weights, initial, find_units(bank.backbone.body), floor=floor)


def structured_bank(name: str, sparsity: float) -> TicketBank:
    backbone = build_backbone(name, weights="random:0", **NETWORKS[name])
    bank = TicketBank(backbone, Classification(5))
    scores = unit_scores(bank)
    scores.binarise(sparsity)
    state = backbone.body.state_dict()
    norm = {
        n: torch.rand(state[n].shape) + 0.5 if state[n].is_floating_point() else state[n]
        for n in bank.norm_names
    }
    head = bank.task.build_head(backbone.feature_dim).state_dict()
    bank.append(Ticket(0, scores.mask(), norm, head, {}, TicketInfo("slim")))
    return bank


@pytest.mark.parametrize("name", NETWORKS)
def test_the_small_network_gives_the_masked_ones_outputs(name: str) -> None:
    bank = structured_bank(name, 0.4)
    slim = bank.extract(0)
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        activation = bank.backbone.run_trunk(images).activation
        masked = bank.run_ticket(0, activation)
        small = slim(activation)
    assert masked.std() > 0
    torch.testing.assert_close(small / masked.std(), masked / masked.std(), rtol=1e-5, atol=1e-5)
    dense = sum(p.numel() for p in bank.backbone.body.parameters())
    assert sum(p.numel() for p in slim.body.parameters()) < 0.7 * dense
    assert type(slim) is nn.Sequential
    # Nothing that a mask still drops is left in the small network.
    dropped = bank.layout.total - bank[0].mask.kept
    assert dense - sum(p.numel() for p in slim.body.parameters()) >= dropped


def test_units_lie_inside_residual_blocks() -> None:
    body = build_backbone("glyphnet", weights="random:0", width=4).body
    assert [(g.producer, g.through, g.consumer, g.size) for g in find_units(body)] == [
        ("block2.conv1", ("block2.bn1",), "block2.conv2", 8),
        ("block3.conv1", ("block3.bn1",), "block3.conv2", 16),
    ]


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.7])
def test_the_budget_is_kept_and_used(sparsity: float) -> None:
    bank = TicketBank(build_backbone("glyphnet", weights="random:0"), Classification(5))
    scores = unit_scores(bank)
    scores.binarise(sparsity)
    reached = scores.mask().sparsity
    # A unit of the largest group is about a hundredth of its two layers.
    assert sparsity - 1e-9 <= reached <= sparsity + 0.02
    again = UnitScores(bank.layout, scores.weights, scores.scores, scores.groups)
    again.binarise(sparsity)
    assert torch.equal(again.keep, scores.keep)


def test_floors_hold_where_the_budget_is_out_of_reach() -> None:
    bank = TicketBank(build_backbone("glyphnet", weights="random:0"), Classification(5))
    scores = unit_scores(bank)
    scores.binarise(0.999)
    layers = bank.layout.unflatten(scores.keep)
    for group in scores.groups:
        rows = layers[f"{group.producer}.weight"].flatten(1).any(dim=1)
        assert int(rows.sum()) == 1
    scores.limit(f"{scores.groups[0].producer}.weight", 0.5)
    scores.binarise(0.999)
    kept = bank.layout.unflatten(scores.keep)[f"{scores.groups[0].producer}.weight"]
    assert int(kept.flatten(1).any(dim=1).sum()) == scores.groups[0].size // 2


def test_the_best_units_stay() -> None:
    body = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    bank = TicketBank(Backbone("toy", nn.Identity(), body, feature_dim=2), Classification(2))
    scores = unit_scores(bank)
    with torch.no_grad():
        scores.scores.zero_()
        bank.layout.unflatten(scores.scores.data)["0.weight"][[1, 3]] = 1.0
    scores.binarise(0.5)
    layers = bank.layout.unflatten(scores.keep)
    assert layers["0.weight"].tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert layers["2.weight"].tolist() == [[0, 1, 0, 1]] * 2


def test_a_ticket_of_single_weights_can_be_extracted_too() -> None:
    bank = structured_bank("glyphnet", 0.0)
    keep = torch.rand(bank.layout.total) < 0.5
    bank.append(
        Ticket(
            1, Mask.from_flat(bank.layout, keep), bank[0].norm, bank[0].head, {}, TicketInfo("w")
        )
    )
    activation = bank.backbone.run_trunk(torch.rand(2, 3, 32, 32)).activation
    small = bank.extract(1)(activation)
    torch.testing.assert_close(small, bank.run_ticket(1, activation), rtol=1e-4, atol=1e-4)


def test_a_unit_without_inputs_still_gives_its_bias() -> None:
    body = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.ones_(body[0].bias)
    bank = TicketBank(Backbone("toy", nn.Identity(), body, feature_dim=2), Classification(2))
    keep = torch.ones(bank.layout.total, dtype=torch.bool)
    layers = bank.layout.unflatten(keep)
    layers["0.weight"][:2] = False
    layers["2.weight"][:, 0] = False
    head = bank.task.build_head(2).state_dict()
    bank.append(Ticket(0, Mask.from_flat(bank.layout, keep), {}, head, {}, TicketInfo("a")))
    small, x = bank.extract(0), torch.rand(5, 2)
    torch.testing.assert_close(small(x), bank.run_ticket(0, x))
    assert small.body[0].out_features == 3


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) if x.sum() > 0 else self.b(x)


def test_layers_that_share_weights_make_no_units() -> None:
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert len(find_units(body)) == 2
    body[2].weight = body[0].weight
    with pytest.raises(BankError, match="this body has none"):
        find_units(body)


def test_bodies_without_units_are_refused() -> None:
    with pytest.raises(BankError, match=r"need a body that torch.fx can trace"):
        find_units(Branching())
    with pytest.raises(BankError, match="this body has none"):
        find_units(nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))))
