"""The suites over everything that a plugin registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rtl_continual.backbones import backbone_config_class, build_backbone
from rtl_continual.discovery import (
    build_clusterer,
    build_detector,
    clusterer_config_class,
    detector_config_class,
)
from rtl_continual.errors import PluginError, unknown_name
from rtl_continual.plugins import Manager
from rtl_continual.routing import build_router, router_config_class
from rtl_continual.streams import build_stream, stream_config_class
from rtl_continual.testing._backbones import BACKBONE_SUITE
from rtl_continual.testing._discovery import CLUSTERER_SUITE, DETECTOR_SUITE
from rtl_continual.testing._relaxation import POLICY_SUITE
from rtl_continual.testing._routers import ROUTER_SUITE
from rtl_continual.testing._schedules import SCHEDULE_SUITE
from rtl_continual.testing._streams import STREAM_SUITE
from rtl_continual.testing._suite import Outcome, Suite
from rtl_continual.tickets import build_schedule, schedule_config_class
from rtl_continual.training import RELAXATION_POLICIES

__all__ = ["Subject", "check_plugin", "subjects_of"]


@dataclass(frozen=True)
class Subject:
    """Something registered that a suite can check.

    Args:
        kind: ``router``, ``stream``, ``backbone``, ``clusterer`` ...
        name: what it is registered as.
    """

    kind: str
    name: str


def _router(name: str) -> Any:
    return build_router(router_config_class(name)())


def _stream(name: str) -> Any:
    return build_stream(stream_config_class(name)())


def _backbone(name: str) -> Any:
    config_class = backbone_config_class(name)
    return build_backbone(config_class(name=name, weights="random:0"))


def _schedule(name: str) -> Any:
    return build_schedule(schedule_config_class(name)())


def _policy(name: str) -> Any:
    return RELAXATION_POLICIES.build(RELAXATION_POLICIES.config_class(name)())


def _clusterer(name: str) -> Any:
    return build_clusterer(clusterer_config_class(name)())


def _detector(name: str) -> Any:
    return build_detector(detector_config_class(name)())


_SUITES: dict[str, tuple[Suite[Any], Callable[[str], Any]]] = {
    "register_routers": (ROUTER_SUITE, _router),
    "register_streams": (STREAM_SUITE, _stream),
    "register_backbones": (BACKBONE_SUITE, _backbone),
    "register_sparsity_schedules": (SCHEDULE_SUITE, _schedule),
    "register_relaxation_policies": (POLICY_SUITE, _policy),
    "register_clusterers": (CLUSTERER_SUITE, _clusterer),
    "register_shift_detectors": (DETECTOR_SUITE, _detector),
}


def subjects_of(manager: Manager, name: str) -> list[Subject]:
    """What the suites can check of a plugin.

    Args:
        manager: knows the plugins.
        name: of a plugin, of its distribution, or of one thing that a plugin registers.

    Raises:
        PluginError: if ``name`` names nothing.
    """
    found, known = [], False
    names = set()
    for hook in manager.registration_hooks:
        for registered, (_, origin) in manager.registered(hook).items():
            names |= {registered, origin.plugin, *filter(None, [origin.distribution])}
            if name in (registered, origin.plugin, origin.distribution):
                known = True
                if hook in _SUITES:
                    found.append(Subject(_SUITES[hook][0].kind, registered))
    plugins = {plugin.name for plugin in manager.plugins}
    if not known and name not in plugins:
        for problem in manager.problems:
            if problem.startswith(f"plugin '{name}' ") or f" ({name} " in problem:
                raise PluginError(problem)
        raise PluginError(unknown_name("plugin", name, names | plugins))
    return found


def check_plugin(subject: Subject) -> list[Outcome]:
    """Run the suite over one thing, built with its default options.

    Backbones are built with random weights. What cannot be built without options of the user's
    (a stream's folder) is one failed outcome that says so.
    """
    for suite, build in _SUITES.values():
        if suite.kind == subject.kind:
            return suite.run(partial(build, subject.name))
    raise PluginError(f"there is no suite for a {subject.kind}")
