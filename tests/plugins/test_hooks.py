"""Every hook does what its docstring says, in a run; and every hook has a test and a page."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from rtl_continual import cli, load_bank
from rtl_continual.backbones import (
    Backbone,
    BackboneConfig,
    BackboneSource,
    InputSpec,
    build_backbone,
)
from rtl_continual.discovery import (
    Clusterer,
    ShiftDetector,
    build_clusterer,
    build_detector,
    clusterer_config_class,
    detector_config_class,
)
from rtl_continual.errors import BankError, ConfigError, PluginError
from rtl_continual.export import Exporter
from rtl_continual.plugins import Manager, _hookspecs, _manager, hook_names, hookimpl
from rtl_continual.routing import FlatRouter, FlatRouterConfig
from rtl_continual.runs import (
    Answers,
    Method,
    MethodConfig,
    ReportSection,
    load_scenario,
    run_scenario,
    scenario_schema,
    write_report,
)
from rtl_continual.runs._sections import extra_sections
from rtl_continual.streams import ArraySet, Experience, Stream, StreamSource, build_stream
from rtl_continual.tasks import Classification
from rtl_continual.tickets import GroupedExecutor, SparsitySchedule
from rtl_continual.training import (
    CollapseReport,
    Relaxation,
    RelaxationPolicy,
    build_relaxation_policy,
)

from .conftest import MeanConfig, MeanRouter, values_of

ROOT = Path(__file__).parents[2]


class DotsConfig(MeanConfig):
    name: Literal["dots"] = "dots"
    count: int = Field(12, ge=4, description="images per part")


def build_dots(config: DotsConfig) -> Stream:
    def part(domain: int, seed: int) -> ArraySet:
        rng = np.random.default_rng([seed, domain])
        images = rng.integers(0, 60, (config.count, 3, 8, 8))
        targets = np.arange(config.count) % 2
        images[:, domain] += 90
        images[targets == 1, :, :4] += 100
        return ArraySet(images.astype(np.uint8), targets, domain)

    names = ("red", "green")
    return Stream(
        "dots",
        ("a", "b"),
        names,
        tuple(Experience(n, part(d, 0), part(d, 1)) for d, n in enumerate(names)),
        {n: part(d, 2) for d, n in enumerate(names)},
        fingerprint=f"dots{config.count}",
    )


class TinyConfig(BackboneConfig):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["tiny"] = "tiny"
    channels: int = Field(4, ge=1, description="of the trunk")


def build_tiny(config: TinyConfig) -> Backbone:
    trunk = nn.Sequential(nn.Conv2d(3, config.channels, 3, padding=1), nn.ReLU())
    body = nn.Sequential(
        nn.Conv2d(config.channels, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    for seed, layer in enumerate((trunk[0], body[0])):
        weights = np.random.default_rng(seed).normal(size=layer.weight.shape)
        layer.weight.data.copy_(layer.weight.new_tensor(weights))
        layer.bias.data.zero_()
    return Backbone("tiny", trunk, body, feature_dim=8, input_spec=InputSpec(size=(8, 8)))


class StepConfig(MeanConfig):
    name: Literal["step"] = "step"
    at: float = Field(0.5, ge=0, le=1, description="share of the steps before the jump")


class Step(SparsitySchedule):
    name = "step"
    config_class = StepConfig

    def __init__(self, config: StepConfig) -> None:
        self.config = config

    def sparsity(self, step: int, total_steps: int, **way: float) -> float:
        return way["start"] if step < self.config.at * total_steps else way["target"]


class HalfConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["half"] = "half"


class Half(RelaxationPolicy):
    name = "half"
    config_class = HalfConfig

    def __init__(self, config: HalfConfig) -> None:
        self.config = config

    def relax(self, report: CollapseReport) -> Relaxation:
        return Relaxation(target=report.target / 2)


class WeightedConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["weighted"] = "weighted"
    first: float = Field(1.0, gt=0, description="weight of the first class")


class Weighted(Classification):
    name = "weighted"
    config_class = WeightedConfig

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weight = torch.ones(self.num_outputs)
        weight[0] = self.config.first
        return torch.nn.functional.cross_entropy(outputs, targets, weight)


class CountedConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["counted"] = "counted"
    most: int = Field(100, ge=1, description="samples of a batch at most")


class Counted(GroupedExecutor):
    name = "counted"
    config_class = CountedConfig
    batches: ClassVar[list[int]] = []

    def execute(self, bank: Any, activation: torch.Tensor, ticket_ids: torch.Tensor) -> Any:
        self.batches.append(len(ticket_ids))
        assert len(ticket_ids) <= self.config.most
        return super().execute(bank, activation, ticket_ids)


class NamesConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["names"] = "names"
    prefix: str = Field("", description="before the ticket's name")


class Names(Exporter):
    name = "names"
    suffix = ".name"
    config_class = NamesConfig

    def __init__(self, config: NamesConfig) -> None:
        self.config = config

    def export(self, bank: Any, ticket_id: int, path: Path) -> None:
        path.write_text(self.config.prefix + bank[ticket_id].name, encoding="utf-8")


class NeverConfig(MeanConfig):
    name: Literal["never"] = "never"


class Never(ShiftDetector):
    name = "never"
    config_class = NeverConfig

    def _evidence(self, statistic: float) -> float:
        return 0.0

    def _restart(self) -> None:
        return None


class HalvesConfig(MeanConfig):
    name: Literal["halves"] = "halves"


class Halves(Clusterer):
    name = "halves"
    config_class = HalvesConfig

    def _labels(self, x: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        return (x[:, 0] > np.median(x[:, 0])).astype(int)


class GuessConfig(MethodConfig):
    answer: int = Field(0, ge=0, description="what it always says")


class Guess(Method[GuessConfig]):
    name = "guess"
    summary = "always the same answer"
    config_class = GuessConfig

    def learn(self, index: int) -> None:
        self.context.advance(f"nothing learned from {index}")

    def predict(self, images: Any, *, domain: int | None = None) -> Answers:
        return Answers(np.full(len(images), self.config.answer))

    def parameters(self) -> dict[str, float]:
        keys = ("backbone", "effective_union", "separate_models", "bytes_on_disk", "trainable")
        return {**dict.fromkeys(keys, 1), "ratio_vs_separate": 1.0}


class Remark(ReportSection):
    name = "remark"
    title = "A remark"

    def render(self, results: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
        return f"<p id='remark'>{len(events)} events of {results['scenario']}</p>"


class Silent(ReportSection):
    name = "silent"
    title = "Nothing to say"

    def render(self, results: Any, events: Any) -> None:
        return None


class Everything:
    """A plugin with all hooks."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.relaxation: Any = None

    @hookimpl
    def register_routers(self) -> dict[str, Any]:
        return {"mean": MeanRouter}

    @hookimpl
    def register_streams(self) -> dict[str, Any]:
        return {"dots": StreamSource(DotsConfig, build_dots)}

    @hookimpl
    def register_backbones(self) -> dict[str, Any]:
        return {"tiny": BackboneSource(TinyConfig, build_tiny)}

    @hookimpl
    def register_methods(self) -> dict[str, Any]:
        return {"guess": Guess}

    @hookimpl
    def register_sparsity_schedules(self) -> dict[str, Any]:
        return {"step": Step}

    @hookimpl
    def register_relaxation_policies(self) -> dict[str, Any]:
        return {"half": Half}

    @hookimpl
    def register_shift_detectors(self) -> dict[str, Any]:
        return {"never": Never}

    @hookimpl
    def register_clusterers(self) -> dict[str, Any]:
        return {"halves": Halves}

    @hookimpl
    def register_tasks(self) -> dict[str, Any]:
        return {"weighted": Weighted}

    @hookimpl
    def register_executors(self) -> dict[str, Any]:
        return {"counted": Counted}

    @hookimpl
    def register_exporters(self) -> dict[str, Any]:
        return {"names": Names}

    @hookimpl
    def register_report_sections(self) -> dict[str, Any]:
        return {"silent": Silent, "remark": Remark}

    @hookimpl
    def choose_router(self, bank: Any, config: Any) -> Any:
        self.heard.append(("choose_router", (len(bank), bank.router, config)))

    @hookimpl
    def relax_sparsity(self, report: CollapseReport) -> Any:
        self.heard.append(("relax_sparsity", report))
        return self.relaxation

    @hookimpl
    def run_started(self, scenario: Any, folder: Path) -> None:
        self.heard.append(("run_started", (scenario.name, (folder / "config.yaml").exists())))

    @hookimpl
    def run_finished(self, folder: Path, results: Any) -> None:
        written = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        self.heard.append(("run_finished", written == results))

    @hookimpl
    def ticket_added(self, folder: Path, unit: str, facts: Any) -> None:
        events = (folder / "metrics.jsonl").read_text(encoding="utf-8")
        self.heard.append(("ticket_added", (unit, dict(facts), events.count("ticket_added"))))

    @hookimpl
    def ticket_rejected(self, folder: Path, unit: str, facts: Any) -> None:
        self.heard.append(("ticket_rejected", (folder.name, unit, dict(facts))))

    @hookimpl
    def shift_detected(self, folder: Path, unit: str, facts: Any) -> None:
        self.heard.append(("shift_detected", (folder.name, unit, dict(facts))))

    @hookimpl
    def collapse_detected(self, folder: Path, unit: str, facts: Any) -> None:
        self.heard.append(("collapse_detected", (folder.name, unit, dict(facts))))


SCENARIO = """\
name: all-hooks
stream: {name: dots, count: 8}
backbone: {name: tiny, channels: 5}
tickets: {epochs: 1, batch_size: 4, sparsity: 0.5, schedule: {name: step, at: 0.25}}
router: {name: mean, sharpness: 2}
task: {name: weighted, first: 3}
executor: {name: counted, most: 8}
methods:
  rtl:
  guess: {answer: 1}
"""


@dataclass
class Done:
    plugin: Everything
    folder: Path
    results: dict[str, Any]
    report: str
    schema: dict[str, Any]

    def heard(self, hook: str) -> list[Any]:
        return [facts for name, facts in self.plugin.heard if name == hook]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """One run with a plugin that has every hook."""
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    plugin = Everything()
    with pytest.MonkeyPatch.context() as patch:
        manager = Manager()
        patch.setattr(_manager, "_manager", manager)
        manager.register(plugin, "everything")
        out = folder / "out"
        results = run_scenario(load_scenario(folder / "s.yaml"), out)
        report = write_report(out).read_text(encoding="utf-8")
        yield Done(plugin, out, results, report, scenario_schema())


GROWING = """\
name: growing
stream: {name: dots, count: 40}
backbone: {name: tiny, channels: 5}
tickets:
  epochs: 10
  batch_size: 4
  sparsity: 0.998
  collapse: {policy: {name: half}, max_relaxations: 1, probe_images: 8}
growth: discover
discovery: {min_support: 10, max_tickets: 1, clusterer: {name: kmeans, clusters: 1}}
methods: {rtl: }
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A run that discovers clusters, has room for one, and prunes it until it collapses."""
    folder = tmp_path_factory.mktemp("grown")
    (folder / "s.yaml").write_text(GROWING, encoding="utf-8")
    plugin = Everything()
    plugin.relaxation = Relaxation(target=0.625)
    with pytest.MonkeyPatch.context() as patch:
        manager = Manager()
        patch.setattr(_manager, "_manager", manager)
        manager.register(plugin, "everything")
        results = run_scenario(load_scenario(folder / "s.yaml"), folder / "out")
        yield Done(plugin, folder / "out", results, "", {})


def test_hook_register_routers(done: Done) -> None:
    assert done.results["config"]["router"] == {"name": "mean", "sharpness": 2.0}
    assert done.results["methods"]["rtl"]["router"]["name"] == "mean"
    options = {o["title"]: o["properties"] for o in done.schema["properties"]["router"]["oneOf"]}
    assert options["MeanConfig"]["sharpness"]["exclusiveMinimum"] == 0


def test_hook_register_streams(done: Done) -> None:
    assert done.results["stream"]["fingerprint"] == "dots8"
    options = {o["title"]: o["properties"] for o in done.schema["properties"]["stream"]["oneOf"]}
    assert options["DotsConfig"]["count"]["minimum"] == 4


def test_hook_register_backbones(done: Done) -> None:
    assert done.results["backbone"]["name"] == "tiny"
    options = done.schema["properties"]["backbone"]["oneOf"]
    assert "tiny" not in options[0]["properties"]["name"]["enum"]
    assert options[1]["properties"]["channels"]["default"] == 4


def test_hook_register_methods(done: Done) -> None:
    matrix = done.results["methods"]["guess"]["accuracy_matrix"]
    assert matrix == [[0.5, 0.5], [0.5, 0.5]]
    methods = done.schema["properties"]["methods"]["properties"]
    assert methods["guess"]["properties"]["answer"]["minimum"] == 0


def test_hook_register_sparsity_schedules(done: Done) -> None:
    assert done.results["config"]["tickets"]["schedule"]["name"] == "step"
    sparsity = [t["sparsity_reached"] for t in done.results["methods"]["rtl"]["tickets"]]
    assert sparsity == pytest.approx([0.5, 0.5], abs=0.01)
    schedule = done.schema["properties"]["tickets"]["properties"]["schedule"]
    assert {part["properties"]["name"]["const"] for part in schedule["oneOf"]} == {"cubic", "step"}


def test_hook_register_relaxation_policies(manager: Manager) -> None:
    manager.register(Everything(), "everything")
    report = CollapseReport.example(target=0.9)
    assert build_relaxation_policy(HalfConfig()).relax(report) == Relaxation(target=0.45)


def test_hook_register_shift_detectors(manager: Manager) -> None:
    manager.register(Everything(), "everything")
    assert detector_config_class("never") is NeverConfig
    assert isinstance(build_detector(NeverConfig()), Never)


def test_hook_register_clusterers(manager: Manager) -> None:
    manager.register(Everything(), "everything")
    assert clusterer_config_class("halves") is HalvesConfig
    halves = build_clusterer(HalvesConfig()).cluster(torch.arange(4.0)[:, None])
    assert sorted(halves.tolist()) == [0, 0, 1, 1]


def test_hook_register_tasks(done: Done, manager: Manager) -> None:
    assert done.results["config"]["task"] == {"name": "weighted", "first": 3.0}
    names = {
        part["properties"]["name"]["const"] for part in done.schema["properties"]["task"]["oneOf"]
    }
    assert names == {"classification", "weighted"}
    with pytest.raises(BankError, match="task comes from a plugin that is not here: unknown task"):
        load_bank(done.folder / "bank", backbone=build_tiny(TinyConfig(channels=5)))
    manager.register(Everything(), "everything")
    task = load_bank(done.folder / "bank").task
    assert isinstance(task, Weighted)
    assert (task.config.first, task.classes) == (3.0, ("a", "b"))


def test_hook_register_executors(done: Done) -> None:
    assert done.results["config"]["executor"] == {"name": "counted", "most": 8}
    assert set(Counted.batches) == {8}
    schema = done.schema["properties"]["executor"]["oneOf"]
    names = {part["properties"]["name"]["const"] for part in schema}
    assert names == {"counted", "grouped", "separate"}


def test_hook_register_exporters(done: Done, tmp_path: Path, capsys: Any) -> None:
    bank, words = done.folder / "bank", ["--ticket", "1", "--set", "prefix=ticket-", "--json"]
    assert rtl("export", bank, tmp_path / "one.name", *words) == 0
    assert (tmp_path / "one.name").read_text(encoding="utf-8") == "ticket-green"
    assert json.loads(capsys.readouterr().out)["format"] == "names"
    assert rtl("export", bank, tmp_path / "one.nam", "--ticket", "red") == 2
    assert (
        "no exporter writes such files; name one. Known: .name (names)" in capsys.readouterr().err
    )


def test_hook_register_report_sections(done: Done) -> None:
    assert "<h2>A remark</h2>" in done.report
    assert re.search(r"<p id='remark'>\d+ events of all-hooks</p>", done.report)
    assert "Nothing to say" not in done.report


def test_a_section_that_gives_no_text_is_named(manager: Manager) -> None:
    class Number(ReportSection):
        name = "number"
        title = "Just a number"

        def render(self, results: Any, events: Any) -> Any:
            return 5

    manager.register(values_of(register_report_sections={"number": Number}), "mine")
    with pytest.raises(PluginError, match=r"'Just a number' .*must give HTML text or None, got 5"):
        extra_sections({"config": {}}, [])


def test_hook_choose_router(done: Done, manager: Manager) -> None:
    assert done.heard("choose_router") == [(0, None, MeanConfig(sharpness=2.0))]
    chosen = FlatRouter()
    manager.register(values_of(choose_router=chosen), "mine")
    assert manager.hook.choose_router(bank=None, config=MeanConfig()) is chosen
    manager.unregister("mine")
    built = manager.hook.choose_router(bank=None, config=FlatRouterConfig(iterations=7))
    assert built.config.iterations == 7


def test_hook_relax_sparsity(grown: Done) -> None:
    (report,) = grown.heard("relax_sparsity")
    assert (report.ticket, report.target) == ("cluster 0", 0.998)
    (ticket,) = grown.results["methods"]["rtl"]["tickets"]
    assert (ticket["sparsity_target"], ticket["relaxations"]) == (0.625, 1)


def test_hook_run_started(done: Done) -> None:
    assert done.heard("run_started") == [("all-hooks", True)]


def test_hook_run_finished(done: Done) -> None:
    assert done.heard("run_finished") == [True]


def test_hook_ticket_added(done: Done) -> None:
    (first, second) = done.heard("ticket_added")
    assert (first[0], first[1]["cluster"], first[2]) == ("seed0.rtl", "red", 1)
    assert (second[1]["ticket"], second[1]["cluster"], second[2]) == (1, "green", 2)


def rtl(*words: object) -> int:
    """The command line's exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rtl", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return int(stop.value.code or 0)


def test_hook_ticket_rejected(grown: Done) -> None:
    ((folder, unit, facts),) = grown.heard("ticket_rejected")
    assert (folder, unit) == ("out", "seed0.rtl")
    assert (facts["experience"], facts["groups"]) == (1, 1)
    assert "may not have more than discovery.max_tickets (1) tickets" in facts["reason"]


def test_hook_shift_detected(grown: Done) -> None:
    facts = {"experience": 0, "clusters": 1, "samples": 40}
    assert grown.heard("shift_detected") == [("out", "seed0.rtl", facts)]


def test_hook_collapse_detected(grown: Done) -> None:
    (report,) = grown.heard("relax_sparsity")
    (folder, unit, facts) = grown.heard("collapse_detected")[0]
    assert (folder, unit) == ("out", "seed0.rtl")
    assert (facts["ticket"], facts["cluster"], facts["step"]) == (0, "cluster 0", report.step)


# What goes wrong in a run.


def tiny_run(tmp_path: Path, text: str = SCENARIO) -> Callable[[], Any]:
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    return lambda: run_scenario(load_scenario(tmp_path / "s.yaml"), tmp_path / "out")


def test_a_plugin_that_raises_stops_the_run_and_leaves_nothing_half_written(
    manager: Manager, tmp_path: Path
) -> None:
    class Failing(Everything):
        @hookimpl
        def choose_router(self, bank: Any) -> Any:
            raise KeyError("no idea")

    manager.register(Failing(), "undecided")
    with pytest.raises(PluginError, match="plugin 'undecided' failed in choose_router: KeyError"):
        tiny_run(tmp_path)()
    assert list((tmp_path / "out" / "units").iterdir()) == []
    assert not (tmp_path / "out" / "bank").exists()
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"plugin 'unsure' failed in relax_sparsity: KeyError: 'no idea' \(test_hooks.py"),
        (0.9, "plugin 'unsure': relax_sparsity must return a rtl_continual.training.Relaxation"),
    ],
)
def test_a_bad_relaxation_stops_the_run_and_leaves_nothing_half_written(
    manager: Manager, tmp_path: Path, answer: Any, message: str
) -> None:
    class Unsure(Everything):
        @hookimpl
        def relax_sparsity(self) -> Any:
            return {}["no idea"] if answer is None else answer

    plugin = Unsure()
    manager.register(plugin, "unsure")
    with pytest.raises(PluginError, match=message):
        tiny_run(tmp_path, GROWING)()
    assert not [name for name, _ in plugin.heard if name == "ticket_added"]
    assert list((tmp_path / "out" / "units").iterdir()) == []
    assert not (tmp_path / "out" / "bank").exists()


def test_a_policy_that_raises_is_named(manager: Manager, tmp_path: Path) -> None:
    class Lost(Half):
        def relax(self, report: CollapseReport) -> Relaxation:
            return Relaxation(target=report.no_such_thing)

    class Policies(Everything):
        @hookimpl
        def register_relaxation_policies(self) -> dict[str, Any]:
            return {"half": Lost}

    manager.register(Policies(), "lost")
    with pytest.raises(PluginError, match=r"plugin 'lost' failed at test_hooks.py:\d+: Attrib"):
        tiny_run(tmp_path, GROWING)()
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_router_that_raises_while_routing_is_named(manager: Manager, tmp_path: Path) -> None:
    class Late(MeanRouter):
        def route(self, features: Any, *, budget: int | None = None) -> Any:
            return self.no_such_thing

    class Routers(Everything):
        @hookimpl
        def register_routers(self) -> dict[str, Any]:
            return {"mean": Late}

    manager.register(Routers(), "late")
    with pytest.raises(PluginError, match=r"plugin 'late' failed at test_hooks.py:\d+: Attrib"):
        tiny_run(tmp_path)()
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_plugins_options_are_checked_with_line_numbers(manager: Manager, tmp_path: Path) -> None:
    manager.register(Everything(), "everything")
    text = SCENARIO.replace("sharpness: 2", "sharpnes: 2").replace("at: 0.25", "at: 7")
    with pytest.raises(ConfigError) as caught:
        tiny_run(tmp_path, text)()
    assert [problem.split("s.yaml:")[1] for problem in caught.value.problems] == [
        "4:75: tickets.schedule.at: must be at most 1, got 7",
        "5:22: router.sharpnes: unknown key; did you mean 'sharpness'? Available: name, sharpness",
    ]


def test_a_scenario_names_its_plugins(manager: Manager, tmp_path: Path) -> None:
    code = """
from rtl_continual.plugins import hookimpl
from rtl_continual.tickets import CubicSchedule, CubicScheduleConfig
from typing import Literal

class BentConfig(CubicScheduleConfig):
    name: Literal["bent"] = "bent"

class Bent(CubicSchedule):
    name = "bent"
    config_class = BentConfig

@hookimpl
def register_sparsity_schedules():
    return {"bent": Bent}
"""
    (tmp_path / "bending.py").write_text(code, encoding="utf-8")
    manager.register(Everything(), "everything")
    text = SCENARIO.replace("step, at: 0.25", "bent") + "plugins: [bending.py]\n"
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    scenario = load_scenario(tmp_path / "s.yaml")
    assert scenario.resolved()["plugins"] == [str(tmp_path / "bending.py")]
    assert scenario.resolved()["tickets"]["schedule"] == {"name": "bent"}
    (tmp_path / "s.yaml").write_text(text.replace("bending", "bendign"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"s.yaml:11:11: plugins\[0\]: .*bendign.py: no such pl"):
        load_scenario(tmp_path / "s.yaml")


# Every hook has a test and a heading with its exact signature.


def signature_of(name: str) -> str:
    return f"{name}{inspect.signature(getattr(_hookspecs, name))}".replace("'", "")


@pytest.mark.parametrize("name", hook_names())
def test_every_hook_is_tested_documented_and_takes_names(name: str) -> None:
    assert f"test_hook_{name}" in globals()
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert f"\n### `{signature_of(name)}`\n" in page
    docstring = inspect.getdoc(getattr(_hookspecs, name)) or ""
    arguments = inspect.signature(getattr(_hookspecs, name)).parameters
    assert all(f"    {argument}: " in docstring for argument in arguments)


def test_every_heading_is_a_hook() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### `(\w+)\(", page, re.M)) == list(hook_names())


def test_a_builder_that_gives_something_else_is_named(manager: Manager) -> None:
    def nothing(config: Any) -> Any:
        return None

    plugin = values_of(
        register_streams={"dots": StreamSource(DotsConfig, nothing)},
        register_backbones={"empty": BackboneSource(BackboneConfig, nothing)},
    )
    manager.register(plugin, "mine")
    with pytest.raises(
        PluginError, match="stream 'dots': its builder must give a Stream, got None"
    ):
        build_stream(DotsConfig())
    with pytest.raises(PluginError, match=r"backbone 'empty': its builder .* a Backbone, got None"):
        build_backbone("empty")
