"""The scenario file: what runs, on what, with which methods."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from rtl_continual.backbones import (
    BackboneConfig,
    backbone_config_class,
    backbone_names,
    check_stages,
)
from rtl_continual.discovery import DiscoveryConfig
from rtl_continual.documents import Document, KeyPath, dump_yaml, read_document
from rtl_continual.errors import ConfigError, PluginError, RTLError, unknown_name
from rtl_continual.plugins import load_plugins
from rtl_continual.problems import check_section, load_options, shown
from rtl_continual.routing import router_config_class, router_names
from rtl_continual.runs._method import MethodConfig
from rtl_continual.runs.methods import METHODS, method_class
from rtl_continual.streams import stream_config_class, stream_names
from rtl_continual.tasks import ClassificationConfig, TaskSection
from rtl_continual.tickets import ExecutorSection, GroupedExecutorConfig
from rtl_continual.training import TicketConfig

__all__ = [
    "MethodEntry",
    "Scenario",
    "ScenarioHead",
    "SweepConfig",
    "load_options",
    "load_scenario",
    "load_stream_config",
]

LABEL = r"^[A-Za-z][A-Za-z0-9_-]*$"


class SweepConfig(BaseModel):
    """Some methods once more for each value of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(
        pattern=r"^(tickets|router|backbone|methods)\.",
        description="the key path that varies, such as tickets.sparsity",
    )
    values: tuple[float | int | str | bool | None, ...] = Field(
        min_length=1, description="its values, in the order of the plot"
    )
    methods: tuple[str, ...] = Field(min_length=1, description="labels of methods that take part")


class ScenarioHead(BaseModel):
    """The keys of a scenario that are no sections of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=LABEL, description="letters, digits, - and _; names the folder")
    description: str = Field("", description="what the run shows")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        (0,), min_length=1, description="each method runs once per seed"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto takes a GPU if there is one"
    )
    threads: int = Field(1, ge=1, description="CPU threads per process")
    jobs: int = Field(1, ge=1, description="worker processes")
    evaluate_on: Literal["test", "validation"] = Field(
        "test", description="validation is for choosing options: the test sets stay unseen"
    )
    record_trunk: bool = Field(
        False,
        description="run the trunk once for each image, and start every method from what it gave: "
        "much faster, but nothing before the split is trained or sees augmented images",
    )
    growth: Literal["per_experience", "discover"] = Field(
        "per_experience",
        description="when a ticket is added: one for each experience, or one for each cluster "
        "that discovery finds (method rtl alone)",
    )
    discovery: DiscoveryConfig = Field(
        default_factory=DiscoveryConfig, description="how clusters are found (growth: discover)"
    )
    task: TaskSection = Field(
        ClassificationConfig(), description="head, loss and decision of tickets"
    )
    executor: ExecutorSection = Field(
        GroupedExecutorConfig(), description="how a mixed batch goes through the body"
    )
    plugins: tuple[str, ...] = Field(
        (),
        description="plugins to load beside those that are installed: module names, or paths of "
        ".py files relative to this file",
    )
    sweep: SweepConfig | None = Field(None, description="vary one key for some methods")


class MethodEntry(BaseModel):
    """One method of a run: which, and its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    config: SerializeAsAny[MethodConfig]


class Scenario(ScenarioHead):
    """A checked scenario; :func:`load_scenario` makes one."""

    stream: SerializeAsAny[BaseModel]
    backbone: SerializeAsAny[BackboneConfig]
    tickets: TicketConfig
    router: SerializeAsAny[BaseModel]
    methods: dict[str, MethodEntry]

    def resolved(self) -> dict[str, Any]:
        """The scenario as plain values, defaults filled in, in the form of its file."""
        values = self.model_dump(mode="json")
        values["methods"] = {
            label: {"method": entry.method, **entry.config.model_dump(mode="json")}
            for label, entry in self.methods.items()
        }
        order = [*ScenarioHead.model_fields, *_SECTIONS]
        return {key: values[key] for key in sorted(values, key=order.index)}

    def to_yaml(self) -> str:
        """:meth:`resolved` as the text of a scenario file."""
        return dump_yaml(self.resolved())

    def with_value(self, key: str, value: Any) -> Scenario:
        """The same scenario with one key changed, and without the sweep.

        Raises:
            ConfigError: if the key does not exist or does not take the value.
        """
        document = Document({**self.resolved(), "sweep": None}, {(): self.name})
        document.set_value(key, value, f"--set {key}")
        return _check(document)


_SECTIONS = ("stream", "backbone", "tickets", "router", "methods")


def load_scenario(
    path: str | Path, overrides: Sequence[str] = (), *, plugins: Sequence[str] = ()
) -> Scenario:
    """Read and check a scenario file.

    Args:
        path: the file.
        overrides: ``key.path=value`` each, as ``--set`` takes them; later ones win.
        plugins: module names and ``.py`` files to load beside those that the file names.

    Raises:
        ConfigError: with every problem of the file and of the overrides, one line each.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError([_missing_file(path)])
    document = read_document(path)
    for assignment in overrides:
        try:
            document.set(assignment)
        except ConfigError as error:
            document.problems.extend(error.problems)
    _load_plugins(document, path.parent, plugins)
    return _check(document)


def _load_plugins(document: Document, folder: Path, more: Sequence[str]) -> None:
    """Load what ``plugins`` names, and note there what the command line adds."""
    given = document.values.get("plugins")
    if given is None:
        given = []
    if not isinstance(given, list) or not all(isinstance(source, str) for source in given):
        return  # check_section says so
    sources = [str((folder / s).resolve()) if s.endswith(".py") else s for s in given]
    for index, source in enumerate(sources):
        try:
            load_plugins([source])
        except PluginError as error:
            document.problems.append(document.problem(("plugins", index), str(error)))
    added = [str(Path(s).resolve()) if s.endswith(".py") else s for s in more]
    load_plugins(added)
    if sources or added:
        document.values["plugins"] = list(dict.fromkeys([*sources, *added]))


def load_stream_config(name: str, overrides: Sequence[str] = ()) -> BaseModel:
    """A stream's options from the command line alone.

    Args:
        name: the stream's.
        overrides: ``key=value`` each, within the stream's section.

    Raises:
        RTLError: if there is no such stream, or with every problem of the overrides.
    """
    return load_options("stream", stream_config_class(name), overrides)


def _missing_file(path: Path) -> str:
    if path.is_dir():
        return f"{path}: is a folder, not a scenario file"
    folders = [folder for folder in {path.parent, Path("scenarios")} if folder.is_dir()]
    found = {p.stem: p for folder in sorted(folders) for p in sorted(folder.glob("*.y*ml"))}
    near = difflib.get_close_matches(path.stem, found, n=1, cutoff=0.5)
    if near:
        return f"{path}: no such scenario file; did you mean {found[near[0]]}?"
    listed = ", ".join(str(found[name]) for name in sorted(found)) or "none"
    return f"{path}: no such scenario file. Found: {listed}"


def _check(document: Document) -> Scenario:
    problems = list(document.problems)
    values = document.values

    def section(key: str, model: type[Any]) -> Any:
        part, found = check_section(model, values.get(key), (key,), document)
        problems.extend(found)
        return part

    parts: dict[str, Any] = {
        "stream": _named_section("stream", stream_names, stream_config_class, document, problems),
        "router": _named_section("router", router_names, router_config_class, document, problems),
        "backbone": section("backbone", _backbone_model(values.get("backbone"))),
        "tickets": section("tickets", TicketConfig),
        "methods": _methods(document, problems),
    }
    backbone = parts["backbone"]
    if backbone is not None and backbone.name not in backbone_names():
        message = unknown_name("backbone", backbone.name, backbone_names())
        problems.append(document.problem(("backbone", "name"), message))
    elif backbone is not None and (wrong := check_stages(backbone)) is not None:
        problems.append(document.problem(("backbone", wrong[0]), wrong[1]))
    plain = {key: value for key, value in values.items() if key not in _SECTIONS}
    head, found = check_section(ScenarioHead, plain, (), document, also=_SECTIONS)
    problems.extend(found)
    if head is not None:
        repeated = sorted({seed for seed in head.seeds if head.seeds.count(seed) > 1})
        if repeated:
            problems.append(document.problem(("seeds",), f"each seed once, got {repeated} again"))
    if problems or head is None:
        raise ConfigError(sorted(problems, key=_line_order))
    scenario = Scenario(**dict(head), **parts)
    if scenario.sweep is not None:
        _check_sweep(scenario, scenario.sweep, document)
    return scenario


def _backbone_model(values: Any) -> type[BackboneConfig]:
    """The options of the backbone that a section names; the common ones if it names none."""
    name = values.get("name") if isinstance(values, Mapping) else None
    return backbone_config_class(name) if name in backbone_names() else BackboneConfig


def _line_order(problem: str) -> tuple[int, int, int]:
    """Problems of the file in its order, then those of overrides in theirs."""
    if problem.startswith("--set "):
        return (1, 0, 0)
    numbers = problem.split(": ", 1)[0].rsplit(":", 2)[1:]
    if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
        return (0, int(numbers[0]), int(numbers[1]))
    return (0, 0, 0)


def _named_section(
    key: str,
    names: Callable[[], Sequence[str]],
    config_class: Callable[[str], type[BaseModel]],
    document: Document,
    problems: list[str],
) -> BaseModel | None:
    """A section whose own ``name`` says which model it has."""
    values = document.values.get(key)
    if key == "router" and key not in document.values:
        values = {"name": "flat"}
    if not isinstance(values, Mapping):
        message = "is missing" if values is None else f"must be a section, got {shown(values)}"
        problems.append(document.problem((key,), f"{message}; give its name: {', '.join(names())}"))
        return None
    name = values.get("name")
    if not isinstance(name, str):
        message = "is missing" if name is None else f"must be text, got {shown(name)}"
        message = f"{message}; give one of: {', '.join(names())}"
        problems.append(document.problem((key, "name"), message))
        return None
    if name not in names():
        problems.append(document.problem((key, "name"), unknown_name(key, name, names())))
        return None
    model = config_class(name)
    if key == "stream" and "limit_images" in values and "limit_images" not in model.model_fields:
        problems.append(document.problem((key, "limit_images"), _no_limit(name, model)))
        values = {option: value for option, value in values.items() if option != "limit_images"}
    part, found = check_section(model, values, (key,), document)
    problems.extend(found)
    return part


def _no_limit(name: str, model: type[BaseModel]) -> str:
    """What to do instead of a dry run on a stream that is not made of files."""
    options = [option for option in model.model_fields if "images_per_" in option]
    instead = f"; take fewer images with {', '.join(options)}" if options else ""
    return f"works on streams of files, and stream '{name}' is none{instead}"


def _methods(document: Document, problems: list[str]) -> dict[str, MethodEntry] | None:
    given = document.values.get("methods")
    if not isinstance(given, Mapping) or not given:
        message = "is missing" if "methods" not in document.values else f"got {shown(given)}"
        message = f"{message}: name at least one method: {', '.join(sorted(METHODS))}"
        problems.append(document.problem(("methods",), message))
        return None
    entries: dict[str, MethodEntry] = {}
    for label, values in given.items():
        path: KeyPath = ("methods", label)
        if values is not None and not isinstance(values, Mapping):
            problems.append(document.problem(path, f"must be a section, got {shown(values)}"))
            continue
        options = dict(values or {})
        name = options.pop("method", label)
        if not isinstance(name, str) or name not in METHODS:
            where = (*path, "method") if "method" in (values or {}) else path
            problems.append(document.problem(where, unknown_name("method", str(name), METHODS)))
            continue
        if not label[:1].isalpha() or not label.replace("-", "").replace("_", "").isalnum():
            problems.append(document.problem(path, "a label has letters, digits, - and _ only"))
        config_class = method_class(name).config_class
        config, found = check_section(config_class, options, path, document, also=["method"])
        problems.extend(found)
        if config is not None:
            entries[label] = MethodEntry(method=name, config=config)
    return entries


def _check_sweep(scenario: Scenario, sweep: SweepConfig, document: Document) -> None:
    problems = [
        document.problem(("sweep", "methods", i), unknown_name("method", label, scenario.methods))
        for i, label in enumerate(sweep.methods)
        if label not in scenario.methods
    ]
    for index, value in enumerate(sweep.values):
        try:
            scenario.with_value(sweep.key, value)
        except RTLError as error:
            message = str(error).removeprefix(f"--set {sweep.key}: ")
            problems.append(document.problem(("sweep", "values", index), f"{sweep.key}: {message}"))
    if problems:
        raise ConfigError(problems)
