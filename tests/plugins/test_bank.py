"""A bank remembers which plugin made its router, and does without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rtl_continual import load_bank
from rtl_continual.backbones import Backbone, InputSpec
from rtl_continual.errors import BankError
from rtl_continual.plugins import Manager
from rtl_continual.routing import FeatureMixture, FlatRouter, FlatRouterConfig
from rtl_continual.store import save_bank
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Mask, Ticket, TicketBank, TicketInfo, magnitude_scores, top_scores

from .conftest import MeanRouter, values_of

PLUGIN = """
from rtl_continual.plugins import hookimpl

@hookimpl
def register_routers():
    return {"mean": "rtl_mean_router:MeanRouter"}
"""


def backbone() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = nn.Conv2d(3, 4, 3)
        body = nn.Sequential(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Backbone("toy", trunk, body, feature_dim=8, input_spec=InputSpec(size=(8, 8)))


def images(domain: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(domain)
    shape = (30, 3, 8, 8)
    return torch.randint(120 * domain, 120 * domain + 60, shape, generator=generator).byte()


def stored(folder: Path) -> TicketBank:
    bank = TicketBank(backbone(), Classification(2), MeanRouter())
    weights = bank.layout.flatten(dict(bank.backbone.body.named_parameters())).detach()
    for domain in range(2):
        features = bank.backbone.run_trunk(images(domain)).router_features
        mixture = FeatureMixture.fit(features)
        keep = top_scores(magnitude_scores(bank.layout, weights), bank.layout, 0.5, 0.1)
        mask = Mask.from_flat(bank.layout, keep)
        head = bank.task.build_head(8).state_dict()
        state = bank.backbone.body.state_dict()
        norm = {name: state[name].clone() for name in bank.norm_names}
        info = TicketInfo(name=f"domain{domain}")
        bank.append(Ticket(domain, mask, norm, head, mixture.tensors(), info))
        bank.router.add(mixture)  # type: ignore[union-attr]
    save_bank(bank, folder)
    return bank


def test_a_bank_with_a_strangers_router_opens_where_its_plugin_is(
    manager: Manager, tmp_path: Path
) -> None:
    manager.register(values_of(register_routers={"mean": MeanRouter}), "mine")
    bank = stored(tmp_path / "bank")
    opened = load_bank(tmp_path / "bank", backbone=backbone())
    assert isinstance(opened.router, MeanRouter)
    batch = torch.cat([images(0), images(1)])
    assert torch.equal(opened.predict(batch).ticket_ids, bank.predict(batch).ticket_ids)


def test_without_its_plugin_a_bank_says_what_to_install(
    manager: Manager,
    tmp_path: Path,
    install: Callable[..., None],
) -> None:
    install("rtl-mean-router", "3.1", PLUGIN)
    manager.load_entry_points()
    stored(tmp_path / "bank")
    manager.unregister("rtl-mean-router")
    with pytest.raises(BankError) as caught:
        load_bank(tmp_path / "bank", backbone=backbone())
    assert (
        "the bank's router 'mean' comes from a plugin that is not here; install it: "
        "pip install 'rtl-mean-router==3.1'. Or open the bank with another router"
    ) in str(caught.value)
    opened: Any = load_bank(tmp_path / "bank", backbone=backbone(), router=FlatRouterConfig())
    assert isinstance(opened.router, FlatRouter)
    assert opened.predict(images(1)).ticket_ids.unique().tolist() == [1]
