from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torchvision.models import VisionTransformer

from rtl_continual.backbones import Backbone, InputSpec
from rtl_continual.backbones._torchvision import _vit_stages
from rtl_continual.routing import FlatRouter
from rtl_continual.store import load_bank, save_bank
from rtl_continual.streams import ArraySet
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, commit_ticket, learn_ticket

MakeData = Callable[..., ArraySet]


def test_a_ticket_of_whole_units_is_learned_and_extracted(
    bank: TicketBank, make_data: MakeData
) -> None:
    config = TicketConfig(kind="units", sparsity=0.5, epochs=20, batch_size=16)
    ticket, learner = learn_ticket(bank, make_data(0), config, info=TicketInfo("a"), seed=0)
    commit_ticket(bank, ticket, learner)
    assert 0.5 <= ticket.mask.sparsity < 0.6
    small = bank.extract(0)
    assert small.body.block3.conv1.out_channels < bank.backbone.body.block3.conv1.out_channels
    test = make_data(0, 40, seed=1)
    images, targets = test.batch(range(40))
    with torch.no_grad():
        outputs = small(bank.backbone.run_trunk(images).activation)
    torch.testing.assert_close(outputs, bank.predict(images).outputs, rtol=1e-4, atol=1e-4)
    # Chance is 0.25. Whole units cost far more here than single weights: 0.73 against 1.0.
    assert (outputs.argmax(dim=1) == targets).float().mean() > 0.6


def tiny_transformer() -> Backbone:
    """Two blocks of four heads each; both are the body's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VisionTransformer(32, 8, 2, 4, 32, 64)
        # As large as in a trained network, so that attention tells places apart.
        for parameter in network.encoder.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.4)
    stages = list(_vit_stages(network).values())
    trunk, body = nn.Sequential(*stages[:1]), nn.Sequential(*stages[1:])
    return Backbone("tiny", trunk, body, feature_dim=32, input_spec=InputSpec(size=(32, 32)))


def test_a_ticket_of_attention_heads_is_learned_saved_and_extracted(
    make_data: MakeData, tmp_path: Path
) -> None:
    bank = TicketBank(tiny_transformer(), Classification(4), FlatRouter())
    config = TicketConfig(kind="units", sparsity=0.5, epochs=20, batch_size=16)
    ticket, learner = learn_ticket(bank, make_data(0), config, info=TicketInfo("a"), seed=0)
    commit_ticket(bank, ticket, learner)
    assert 0.5 <= ticket.mask.sparsity < 0.6
    save_bank(bank, tmp_path / "bank")
    opened = load_bank(tmp_path / "bank", backbone=tiny_transformer())
    small = opened.extract(0)
    heads = [block.self_attention.num_heads for block in small.body[:2]]
    assert sum(heads) < 8
    assert min(heads) >= 1
    images, targets = make_data(0, 40, seed=1).batch(range(40))
    with torch.no_grad():
        outputs = small(opened.backbone.run_trunk(images).activation)
    expected = bank.predict(images).outputs
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)
    # Chance is 0.25.
    assert (outputs.argmax(dim=1) == targets).float().mean() > 0.8
