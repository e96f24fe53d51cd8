"""On a CUDA device everything gives what a processor gives, up to rounding."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rtl_continual.backbones import Backbone
from rtl_continual.export import ProgramExporterConfig, export_ticket
from rtl_continual.routing import (
    FeatureMixture,
    FlatRouterConfig,
    build_router,
    router_config_class,
    router_names,
)
from rtl_continual.runs import load_scenario, run_scenario
from rtl_continual.runs._method import RunContext
from rtl_continual.runs.methods import METHODS, method_class
from rtl_continual.store import load_bank, save_bank
from rtl_continual.streams import Experience, Stream
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, commit_ticket, learn_ticket

pytestmark = pytest.mark.gpu
DOMAINS = 3


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """As runs have it; and full float32, for outputs are compared with a processor's."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.allow_tf32
    cudnn.deterministic, cudnn.allow_tf32 = True, False
    yield
    cudnn.deterministic, cudnn.allow_tf32 = before


def _toy() -> ModuleType:
    """The methods' tests have a stream and a network that learn in a second."""
    path = Path(__file__).parent / "methods" / "conftest.py"
    spec = importlib.util.spec_from_file_location("toy_stream", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = _toy()


def backbone(device: str) -> Backbone:
    """The toy network with a second convolution in its body, so that it has units to drop."""
    made: Backbone = toy.make_backbone()
    with torch.random.fork_rng():
        torch.manual_seed(8)
        more = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    body = nn.Sequential(*made.body[:3], *more, *made.body[3:])
    return Backbone(
        "tiny", made.trunk, body, feature_dim=made.feature_dim, input_spec=made.input_spec
    ).to(device)


def learned(device: str, **options: Any) -> TicketBank:
    config = TicketConfig(epochs=6, batch_size=16, **options)
    bank = TicketBank(backbone(device), Classification(toy.CLASSES))
    bank.router = build_router(FlatRouterConfig())
    for domain in range(DOMAINS):
        ticket, learner = learn_ticket(
            bank,
            toy.images_of(domain, 60, seed=0),
            config,
            info=TicketInfo(toy.DOMAINS[domain]),
            seed=0,
        )
        commit_ticket(bank, ticket, learner)
    return bank


def mixed() -> tuple[torch.Tensor, torch.Tensor]:
    """Test images of all domains, shuffled, and their classes."""
    parts = [toy.images_of(domain, 30, seed=2) for domain in range(DOMAINS)]
    order = torch.randperm(30 * DOMAINS, generator=torch.Generator().manual_seed(0))
    images = torch.cat([part.batch(range(30))[0] for part in parts])
    return images[order], torch.cat([torch.as_tensor(part.targets) for part in parts])[order]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": "units", "sparsity": 0.5},
        {"precision": "bfloat16"},
        {"norm_statistics": "fixed", "head_start": "probe", "head_finish": "probe"},
        {"features": "merged", "head_finish": "probe"},
        {"start": "core", "flip": True, "collapse": {}},
    ],
    ids=["default", "units", "bfloat16", "probe", "merged", "collapse"],
)
def test_tickets_learn_and_answer(options: dict[str, Any]) -> None:
    bank = learned("cuda", **options)
    images, classes = mixed()
    answers = bank.predict(images)
    assert answers.outputs.device.type == "cpu"
    assert float((answers.labels == classes).float().mean()) > 0.8
    assert torch.equal(learned("cuda", **options).predict(images).outputs, answers.outputs)


def test_a_bank_answers_alike_on_both(tmp_path: Path) -> None:
    images, _ = mixed()
    bank = learned("cuda")
    save_bank(bank, tmp_path / "bank")
    on_gpu = bank.predict(images)
    for device in ("cpu", "cuda"):
        opened = load_bank(tmp_path / "bank", backbone=backbone("cpu"), device=device)
        assert opened.backbone.mean.device.type == device
        answers = opened.predict(images)
        assert torch.equal(answers.ticket_ids, on_gpu.ticket_ids)
        torch.testing.assert_close(answers.outputs, on_gpu.outputs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", router_names())
def test_routers_choose_alike_on_both(name: str) -> None:
    images, _ = mixed()
    config = router_config_class(name)(name=name)
    chosen = []
    for device in ("cpu", "cuda"):
        bank = learned("cpu")
        if device == "cuda":
            bank = TicketBank(backbone("cuda"), bank.task, tickets=bank.tickets)
        bank.router = build_router(config)
        bank.router.fit([FeatureMixture(ticket.statistics) for ticket in bank])
        chosen.append(bank.predict(images).ticket_ids)
    assert float((chosen[0] == chosen[1]).float().mean()) > 0.97


def test_extracted_networks_answer_as_the_bank() -> None:
    bank = learned("cuda", kind="units", sparsity=0.5)
    images, _ = mixed()
    with torch.inference_mode():
        activation = bank.backbone.run_trunk(images.to("cuda")).activation
        slim, masked = bank.extract(1)(activation), bank.run_ticket(1, activation)
    torch.testing.assert_close(slim, masked, rtol=1e-4, atol=1e-4)


def accuracy(name: str, device: str) -> float:
    """Of a method on the toy stream, mean over domains."""
    parts = [
        [toy.images_of(domain, count, seed=seed) for seed, count in enumerate((49, 12, 30))]
        for domain in range(DOMAINS)
    ]
    names = toy.DOMAINS
    stream = Stream(
        name="quadrants",
        classes=("a", "b", "c"),
        domains=names,
        experiences=tuple(Experience(n, p[0], p[1]) for n, p in zip(names, parts, strict=True)),
        tests={n: p[2] for n, p in zip(names, parts, strict=True)},
    )
    context = RunContext(
        stream=stream,
        make_backbone=lambda: backbone(device),
        epochs=6,
        batch_size=16,
        seed=0,
        sections={"tickets": TicketConfig(), "router": FlatRouterConfig()},
        emit=lambda *_, **__: None,
        advance=lambda _: None,
    )
    cls = method_class(name)
    method = cls(context, cls.config_class())
    if cls.protocol == "offline":
        method.learn_all()
    else:
        for index in range(DOMAINS):
            method.learn(index)
    right = [
        method.predict(images, domain=d if method.needs_domain else None).labels == images.targets
        for d, images in enumerate(stream.tests.values())
    ]
    return float(np.mean(right))


@pytest.mark.parametrize("name", METHODS)
def test_methods_do_as_well_on_it(name: str) -> None:
    assert accuracy(name, "cuda") == pytest.approx(accuracy(name, "cpu"), abs=0.2)


def test_a_run_can_be_repeated_on_it(tmp_path: Path) -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    path = tmp_path / "small.yaml"
    path.write_text(
        "name: small\ndevice: cuda\n"
        "stream: {name: digits, domains: [handwritten, printed], images_per_domain: 80}\n"
        "backbone: {name: glyphnet}\n"
        "tickets: {epochs: 2}\nrouter: {name: flat}\n"
        "methods: {rtl: {}, single_ticket: {}, linear_probe: {}, naive: {}}\n"
    )
    runs = [run_scenario(load_scenario(path), tmp_path / name) for name in ("one", "two")]
    assert runs[0]["device"] == "cuda"
    for label, entry in runs[0]["methods"].items():
        assert entry["accuracy_matrix"] == runs[1]["methods"][label]["accuracy_matrix"], label
    assert runs[0]["methods"]["rtl"]["final"]["balanced_accuracy_domain_mean"] > 0.3


def test_an_exported_program_answers_as_its_bank(tmp_path: Path) -> None:
    bank = learned("cuda")
    images, _ = mixed()
    path = export_ticket(bank, 0, tmp_path / "ticket", ProgramExporterConfig())
    program = torch.export.load(path).module()
    expected = bank.predict(images, ticket_ids=0).outputs
    torch.testing.assert_close(program(images), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_steps_are_plain_steps() -> None:
    images, _ = mixed()
    plain, compiled = (learned("cuda", compile=on).predict(images) for on in (False, True))
    assert float((plain.labels == compiled.labels).float().mean()) > 0.95
