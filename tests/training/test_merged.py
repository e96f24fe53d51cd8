"""Tickets whose heads read the unmasked body's features beside their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from rtl_continual.backbones import Backbone
from rtl_continual.export import TicketNetwork
from rtl_continual.routing import FlatRouter
from rtl_continual.store import load_bank, save_bank
from rtl_continual.streams import ArraySet
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank, TicketInfo, _packed, merge_features
from rtl_continual.training import TicketConfig, commit_ticket, learn_ticket

MakeData = Callable[..., ArraySet]

CONFIG = TicketConfig(
    sparsity=0.5, epochs=2, batch_size=16, shift=0, head_finish="probe", features="merged"
)


@pytest.fixture
def merged(bank: TicketBank, make_data: MakeData) -> TicketBank:
    """A merged ticket, then a plain one."""
    for domain, config in enumerate(
        (CONFIG, CONFIG.model_copy(update={"features": "own", "start": "cold"}))
    ):
        info = TicketInfo(f"domain {domain}")
        ticket, learner = learn_ticket(bank, make_data(domain), config, info=info, seed=0)
        commit_ticket(bank, ticket, learner)
    return bank


def expected(bank: TicketBank, images: torch.Tensor) -> torch.Tensor:
    """Ticket 0's outputs by the definition."""
    activation = bank.backbone.run_trunk(images).activation
    values = bank.effective_parameters(0)
    body = {k.removeprefix("body."): v for k, v in values.items() if k.startswith("body.")}
    own = torch.func.functional_call(bank.backbone.body, body, (activation,))
    features = merge_features(own, bank.backbone.body(activation))
    return features @ values["head.weight"].T + values["head.bias"]


def test_the_head_reads_both_bodies(merged: TicketBank, make_data: MakeData) -> None:
    images = make_data(0).images
    width = merged.backbone.feature_dim
    assert [t.head["weight"].shape[1] for t in merged] == [2 * width, width]
    outputs = merged.predict(images, ticket_ids=0).outputs
    torch.testing.assert_close(outputs, expected(merged, images), atol=1e-4, rtol=1e-4)
    weight = merged[0].head["weight"]
    assert weight[:, :width].norm() > 0
    assert weight[:, width:].norm() > 0


def test_the_mask_is_that_of_a_plain_ticket(
    bank: TicketBank, merged: TicketBank, make_data: MakeData
) -> None:
    alone = TicketBank(bank.backbone, bank.task, FlatRouter())
    plain, _ = learn_ticket(
        alone,
        make_data(0),
        CONFIG.model_copy(update={"features": "own"}),
        info=TicketInfo("plain"),
        seed=0,
    )
    assert torch.equal(plain.mask.to_flat(), merged[0].mask.to_flat())
    for name, value in plain.norm.items():
        assert torch.equal(value, merged[0].norm[name])


def test_batches_mix_merged_and_plain_tickets_in_threads(
    merged: TicketBank, make_data: MakeData
) -> None:
    images = make_data(1, count=32).images
    ids = torch.arange(32) % 2
    apart = torch.stack(
        [merged.predict(images, ticket_ids=i).outputs[row] for row, i in enumerate(ids.tolist())]
    )

    def ask(_: int) -> torch.Tensor:
        return merged.predict(images, ticket_ids=ids).outputs

    with ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(ask, range(8)):
            torch.testing.assert_close(outputs, apart, atol=1e-4, rtol=1e-4)


def test_packed_weights_give_the_same_answers(backbone: Backbone, make_data: MakeData) -> None:
    backbone.input_spec = type(backbone.input_spec)(size=(32, 32))
    bank = TicketBank(backbone, Classification(4), FlatRouter())
    ticket, learner = learn_ticket(bank, make_data(0), CONFIG, info=TicketInfo("a"), seed=0)
    commit_ticket(bank, ticket, learner)
    images = make_data(0, count=4).images
    _packed._TRUNKS.pop(backbone, None)
    bank.prepare(0)
    assert backbone in _packed._TRUNKS
    assert len(list(bank._packed_body)) == 1, "nothing is left to pack when a request comes"
    with torch.inference_mode():
        outputs = bank.predict(images, ticket_ids=0).outputs
    torch.testing.assert_close(outputs, expected(bank, images), atol=1e-4, rtol=1e-4)
    (body,) = (bank._packed_body.get(key, dict) for key in bank._packed_body)
    assert any(weight.is_mkldnn for weight in body.values())


def test_it_is_stored_exported_and_extracted(
    merged: TicketBank, make_data: MakeData, tmp_path: Path
) -> None:
    images = make_data(0, count=8).images
    outputs = merged.predict(images, ticket_ids=0).outputs
    save_bank(merged, tmp_path / "bank")
    again = load_bank(tmp_path / "bank", backbone=merged.backbone)
    assert torch.equal(again.predict(images, ticket_ids=0).outputs, outputs)
    torch.testing.assert_close(TicketNetwork(merged, 0)(images), outputs, atol=1e-4, rtol=1e-4)
    small = merged.extract(0)
    activation = merged.backbone.run_trunk(images).activation
    torch.testing.assert_close(small(activation), outputs, atol=1e-4, rtol=1e-4)


def test_serving_counts_the_whole_body(merged: TicketBank) -> None:
    counts = merged.parameter_counts()
    assert counts["union"] == merged.layout.total
    assert counts["norm"] == 3 * (counts["norm"] // 3)  # two tickets' and the backbone's own
    assert counts["norm"] > sum(
        t.numel() for ticket in merged for t in ticket.norm.values() if t.is_floating_point()
    )


@pytest.mark.parametrize("head_start", ["given", "probe"])
def test_a_later_ticket_starts_from_a_merged_one(
    merged: TicketBank, make_data: MakeData, head_start: str
) -> None:
    config = CONFIG.model_copy(
        update={"start": "nearest", "start_trial": 0.0, "head_start": head_start}
    )
    ticket, learner = learn_ticket(
        merged, make_data(0, seed=1), config, info=TicketInfo("again"), seed=1
    )
    assert ticket.info.parent == 0
    commit_ticket(merged, ticket, learner)
    data = make_data(0, seed=2)
    labels = merged.predict(data.images, ticket_ids=2).labels
    assert float((labels == torch.from_numpy(data.targets)).float().mean()) > 0.9


def test_a_merged_head_must_be_solved() -> None:
    with pytest.raises(ValidationError, match="needs head_finish: probe"):
        TicketConfig(features="merged")
