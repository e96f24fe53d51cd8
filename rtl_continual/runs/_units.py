"""Units of work: one method, one seed, one value of the sweep; independent of each other."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtl_continual.backbones import Backbone, build_backbone
from rtl_continual.errors import RTLError
from rtl_continual.plugins import blame
from rtl_continual.runs._environment import versions
from rtl_continual.runs._evaluation import evaluation_sets
from rtl_continual.runs._files import plain
from rtl_continual.runs._method import Method, RunContext
from rtl_continual.runs._protocol import Protocol, backbone_facts, stream_facts
from rtl_continual.runs._recorded import record_stream
from rtl_continual.runs._scenario import Scenario
from rtl_continual.runs.methods import method_class
from rtl_continual.streams import Stream, build_stream
from rtl_continual.threads import use_threads

__all__ = ["Unit", "Workshop", "plan_units", "sweep_unit"]


@dataclass(frozen=True)
class Unit:
    """One run of one method.

    Args:
        seed: of everything random.
        label: the method's label in the scenario.
        value: index into the sweep's values, or ``None`` for the scenario as it is.
    """

    seed: int
    label: str
    value: int | None = None

    @property
    def id(self) -> str:
        """Names the unit's file and its events."""
        suffix = "" if self.value is None else f".value{self.value}"
        return f"seed{self.seed}.{self.label}{suffix}"


def plan_units(scenario: Scenario) -> list[Unit]:
    """All units of a scenario, in the order in which they are run."""
    units = [Unit(seed, label) for seed in scenario.seeds for label in scenario.methods]
    if scenario.sweep is not None:
        units += [
            sweep_unit(scenario, Unit(seed, label, value))
            for seed in scenario.seeds
            for label in scenario.sweep.methods
            for value in range(len(scenario.sweep.values))
        ]
    return list(dict.fromkeys(units))


def sweep_unit(scenario: Scenario, unit: Unit) -> Unit:
    """The unit that answers for a value of the sweep: the main one where the value is the same."""
    own = scenario.model_copy(update={"sweep": None}).resolved()
    return Unit(unit.seed, unit.label) if _scenario_of(scenario, unit).resolved() == own else unit


def _scenario_of(scenario: Scenario, unit: Unit) -> Scenario:
    if unit.value is None or scenario.sweep is None:
        return scenario
    return scenario.with_value(scenario.sweep.key, scenario.sweep.values[unit.value])


class Workshop:
    """Runs units one after the other and keeps what they share: the stream and the backbone.

    Args:
        scenario: what the units belong to.
        folder: the run's folder; the bank is saved there.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.folder = folder
        self.device = pick_device(scenario.device)
        use_threads(scenario.threads)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        self._streams: dict[str, Stream] = {}
        self._backbones: dict[str, Backbone] = {}
        self._recorded: dict[str, tuple[Stream, Backbone]] = {}

    def run(
        self, unit: Unit, emit: Callable[..., None], advance: Callable[[str], None]
    ) -> dict[str, Any]:
        """Learn, evaluate, and return what the unit's file holds.

        Raises:
            PluginError: if a plugin's code raises; the message names the plugin.
            RTLError: if data, backbone or options do not fit.
            RuntimeError: if a backbone that should be frozen has changed.
        """
        try:
            return self._run(unit, emit, advance)
        except (Exception, SystemExit) as error:
            named = blame(error)
            if named is error:
                raise
            raise named from error

    def _run(
        self, unit: Unit, emit: Callable[..., None], advance: Callable[[str], None]
    ) -> dict[str, Any]:
        scenario = _scenario_of(self.scenario, unit)
        advance("data and backbone")
        stream, template = self._material(scenario)
        identity = template.compute_identity()
        handed: list[Backbone] = []

        def make_backbone() -> Backbone:
            handed.append(copy.deepcopy(template))
            return handed[-1]

        _seed_everything(unit.seed)
        entry = scenario.methods[unit.label]
        context = RunContext(
            stream=stream,
            make_backbone=make_backbone,
            epochs=scenario.tickets.epochs,
            batch_size=scenario.tickets.batch_size,
            seed=unit.seed,
            sections={
                "tickets": scenario.tickets,
                "router": scenario.router,
                "growth": scenario.growth,
                "discovery": scenario.discovery,
                "executor": scenario.executor,
                "task": scenario.task,
            },
            emit=emit,
            advance=advance,
        )
        method = method_class(entry.method)(context, entry.config)
        sets = evaluation_sets(stream, scenario.evaluate_on)
        result = Protocol(method, stream, sets, emit, advance, self.device).run()
        for backbone in [template, *handed]:
            frozen = not any(p.requires_grad for p in backbone.parameters())
            if frozen and backbone.compute_identity() != identity:
                raise RuntimeError(f"{unit.id}: the frozen backbone has changed during the run")
        if unit == self._bank_unit():
            advance("saving the bank")
            self._save_bank(method)
        return {
            "unit": {"id": unit.id, "seed": unit.seed, "label": unit.label, "value": unit.value},
            "entry": plain({"method": entry.method, **result}),
            "stream": plain(stream_facts(stream, sets)),
            "backbone": plain(backbone_facts(template, identity)),
            "device": self.device.type,
            "versions": versions(),
        }

    def _material(self, scenario: Scenario) -> tuple[Stream, Backbone]:
        """The stream and the frozen backbone that the scenario's methods work with."""
        stream, backbone = self._stream(scenario), self._backbone(scenario)
        if not scenario.record_trunk:
            return stream, backbone
        key = f"{stream.fingerprint}|{backbone.identity}"
        if key not in self._recorded:
            self._recorded = {key: record_stream(stream, backbone)}
        return self._recorded[key]

    def _stream(self, scenario: Scenario) -> Stream:
        key = scenario.stream.model_dump_json()
        if key not in self._streams:
            self._streams = {key: build_stream(scenario.stream)}
        return self._streams[key]

    def _backbone(self, scenario: Scenario) -> Backbone:
        key = scenario.backbone.model_dump_json()
        if key not in self._backbones:
            self._backbones = {key: build_backbone(scenario.backbone).to(self.device)}
        return self._backbones[key]

    def _bank_unit(self) -> Unit | None:
        ours = [label for label, e in self.scenario.methods.items() if e.method == "rtl"]
        return Unit(self.scenario.seeds[0], ours[0]) if ours else None

    def _save_bank(self, method: Method[Any]) -> None:
        """Into a folder beside, then renamed: ``bank/`` is whole or not there."""
        partial, target = self.folder / ".bank-partial", self.folder / "bank"
        shutil.rmtree(partial, ignore_errors=True)
        method.save(str(partial))
        if partial.exists():
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)


def pick_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one.

    Raises:
        RTLError: if a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RTLError("device: cuda was asked for, but torch finds no GPU; use auto or cpu")
    return torch.device(name)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - Avalanche draws from the global generator
    torch.manual_seed(seed)
