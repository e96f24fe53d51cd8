"""An exported ticket answers as its bank does; what fails leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from rtl_continual.backbones import Backbone, InputSpec
from rtl_continual.errors import BankError, RTLError
from rtl_continual.export import (
    Exporter,
    ProgramExporterConfig,
    TicketNetwork,
    WeightsExporterConfig,
    export_ticket,
)
from rtl_continual.plugins import Manager, _manager
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Mask, Ticket, TicketBank, TicketInfo


def make_bank(size: tuple[int, int] | None = (8, 8)) -> TicketBank:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        body = nn.Sequential(
            nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        backbone = Backbone("toy", trunk, body, feature_dim=6, input_spec=InputSpec(size=size))
        bank = TicketBank(backbone, Classification(2, ["left", "right"]))
        state = backbone.body.state_dict()
        for number in range(2):
            keep = torch.rand(bank.layout.total) > 0.5
            norm = {
                n: state[n] + number if n.endswith("bias") else state[n] for n in bank.norm_names
            }
            head = bank.task.build_head(6).state_dict()
            statistics = {"weights": torch.ones(1)}
            info = TicketInfo(name=f"domain {number}")
            mask = Mask.from_flat(bank.layout, keep)
            bank.append(Ticket(number, mask, norm, head, statistics, info))
    return bank


def images(count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("ticket", [0, 1])
def test_a_tickets_network_answers_as_the_bank_does(ticket: int) -> None:
    bank = make_bank()
    network = TicketNetwork(bank, ticket)
    expected = bank.predict(images(), ticket_ids=ticket).outputs
    assert torch.allclose(network(images()), expected, atol=1e-6)
    assert torch.allclose(network(images().float() / 255), expected, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_weights_are_a_plain_file_that_any_copy_of_the_network_loads(tmp_path: Path) -> None:
    bank = make_bank()
    path = export_ticket(bank, "domain 1", tmp_path / "one.safetensors")
    network = TicketNetwork(bank, 0)
    network.load_state_dict(load_file(path))
    expected = bank.predict(images(), ticket_ids=1).outputs
    assert torch.allclose(network(images()), expected, atol=1e-6)
    zeros = load_file(path)["body.0.weight"] == 0
    assert torch.equal(zeros, ~bank[1].mask.layer("0.weight"))
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["rtl_continual"])
    assert (facts["ticket"]["name"], facts["classes"]) == ("domain 1", ["left", "right"])
    assert facts["fingerprint"] == bank[1].fingerprint
    assert facts["backbone"] == {
        "name": bank.backbone.name,
        "split": bank.backbone.split,
        "end": None,
        "readout": "final",
        "identity": bank.backbone.identity,
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["one.safetensors"]


def test_weights_may_be_smaller(tmp_path: Path) -> None:
    config = WeightsExporterConfig(dtype="float16")
    state = load_file(export_ticket(make_bank(), 0, tmp_path / "half", config))
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.int64}


@pytest.mark.slow
def test_a_program_needs_torch_alone_and_takes_any_batch(tmp_path: Path) -> None:
    bank = make_bank(size=None)
    config = ProgramExporterConfig(size=8)
    path = export_ticket(bank, 1, tmp_path / "one.pt2", config)
    inside = {"ticket.json": ""}
    program = torch.export.load(str(path), extra_files=inside).module()
    for count in (1, 5):
        expected = bank.predict(images(count), ticket_ids=1).outputs
        assert torch.allclose(program(images(count)), expected, atol=1e-6)
    assert json.loads(inside["ticket.json"])["ticket"]["name"] == "domain 1"


def test_a_program_needs_to_know_the_size(tmp_path: Path) -> None:
    with pytest.raises(RTLError, match="backbone 'toy' takes images of any size: set size"):
        export_ticket(make_bank(size=None), 0, tmp_path / "one.pt2", ProgramExporterConfig())
    with pytest.raises(RTLError, match="the backbone takes 8x8 pixels, got size 9"):
        export_ticket(make_bank(), 0, tmp_path / "one.pt2", ProgramExporterConfig(size=9))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ticket", "message"),
    [
        (2, "no ticket 2; the bank has 2"),
        (-1, "no ticket -1; the bank has 2"),
        ("domain 3", r"unknown ticket 'domain 3'; did you mean 'domain \d'?"),
    ],
)
def test_a_ticket_that_is_not_there(tmp_path: Path, ticket: int | str, message: str) -> None:
    with pytest.raises(BankError, match=message):
        export_ticket(make_bank(), ticket, tmp_path / "one")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RTLError, match="mine: is there already"):
        export_ticket(make_bank(), 0, tmp_path / "mine")
    with pytest.raises(RTLError, match="cannot be written: No such file"):
        export_ticket(make_bank(), 0, tmp_path / "nowhere" / "mine")


class HalfwayConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["halfway"] = "halfway"


class Halfway(Exporter):
    """Breaks off in the middle."""

    name: ClassVar[str] = "halfway"
    suffix: ClassVar[str] = ".half"
    config_class: ClassVar[type[BaseModel]] = HalfwayConfig

    def __init__(self, config: HalfwayConfig) -> None:
        self.config = config

    def export(self, bank: TicketBank, ticket_id: int, path: Path) -> None:
        path.write_text("half of it")
        raise ZeroDivisionError("broken off")


def test_an_exporter_that_raises_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager()
    monkeypatch.setattr(_manager, "_manager", manager)
    manager.add_registration("breaking", "register_exporters", "halfway", Halfway)
    with pytest.raises(ZeroDivisionError):
        export_ticket(make_bank(), 0, tmp_path / "one", HalfwayConfig())
    assert list(tmp_path.iterdir()) == []
