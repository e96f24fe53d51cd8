"""Every hook there is. A plugin implements those it needs, each marked with ``@hookimpl``.

An implementation may leave out arguments that it does not use; it may not invent any.
Registration hooks return a mapping from names to what is registered: the thing itself, or the text
``"package.module:Name"``, which is imported when it is first used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pydantic import BaseModel

    from rtl_continual.backbones import BackboneSource
    from rtl_continual.discovery import Clusterer, ShiftDetector
    from rtl_continual.export import Exporter
    from rtl_continual.routing import Router
    from rtl_continual.streams import StreamSource
    from rtl_continual.tasks import Task
    from rtl_continual.tickets import Executor, SparsitySchedule, TicketBank
    from rtl_continual.training import CollapseReport, Relaxation, RelaxationPolicy

__all__ = ["API_VERSION", "GROUP", "hookimpl"]

GROUP = "rtl_continual"
"""The entry-point group in which plugins are found, and the name of the hooks' project."""

API_VERSION = 1
"""Raised when a hook changes so that plugins must change. A plugin may name the version it was
made for as ``rtl_api_version``."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def register_routers() -> Mapping[str, type[Router] | str]:  # type: ignore[empty-body]
    """Routers, by the name that a scenario's ``router`` section gives.

    Returns:
        Subclasses of :class:`rtl_continual.routing.Router`; each one's ``config_class`` is its
        section, and it is built as ``RouterClass(config)``.
    """


@hookspec
def register_streams() -> Mapping[str, StreamSource | str]:  # type: ignore[empty-body]
    """Streams, by the name that a scenario's ``stream`` section gives.

    Returns:
        A :class:`rtl_continual.streams.StreamSource` each: its section and what builds it.
    """


@hookspec
def register_backbones() -> Mapping[str, BackboneSource | str]:  # type: ignore[empty-body]
    """Backbones, by the name that a scenario's ``backbone`` section gives.

    Returns:
        A :class:`rtl_continual.backbones.BackboneSource` each: its section, a subclass of
        ``BackboneConfig``, and what builds it.
    """


@hookspec
def register_methods() -> Mapping[str, type[Any] | str]:  # type: ignore[empty-body]
    """Methods that a run can compare, by the name that a scenario's ``methods`` section gives.

    Returns:
        Subclasses of :class:`rtl_continual.runs.Method`; each one's ``config_class`` is its
        section.
    """


@hookspec
def register_sparsity_schedules() -> Mapping[  # type: ignore[empty-body]
    str, type[SparsitySchedule] | str
]:
    """How sparsity rises while a ticket learns, by the name in ``tickets.schedule``.

    Returns:
        Subclasses of :class:`rtl_continual.tickets.SparsitySchedule`; each one's ``config_class``
        is its section, and it is built as ``ScheduleClass(config)``.
    """


@hookspec
def register_relaxation_policies() -> Mapping[  # type: ignore[empty-body]
    str, type[RelaxationPolicy] | str
]:
    """What to do about a collapse, by the name in ``tickets.collapse.policy``.

    Returns:
        Subclasses of :class:`rtl_continual.training.RelaxationPolicy`; each one's
        ``config_class`` is its section, and it is built as ``PolicyClass(config)``.
    """


@hookspec
def register_shift_detectors() -> Mapping[str, type[ShiftDetector] | str]:  # type: ignore[empty-body]
    """Shift detectors, by name.

    Returns:
        Subclasses of :class:`rtl_continual.discovery.ShiftDetector`; each one's ``config_class``
        is its section, and it is built as ``DetectorClass(config)``.
    """


@hookspec
def register_clusterers() -> Mapping[str, type[Clusterer] | str]:  # type: ignore[empty-body]
    """Clusterers, by name.

    Returns:
        Subclasses of :class:`rtl_continual.discovery.Clusterer`; each one's ``config_class`` is
        its section, and it is built as ``ClustererClass(config)``.
    """


@hookspec
def register_tasks() -> Mapping[str, type[Task] | str]:  # type: ignore[empty-body]
    """What tickets learn, by the name that a scenario's ``task`` section gives.

    Returns:
        Subclasses of :class:`rtl_continual.tasks.Task`; each one's ``config_class`` is its
        section, and it is built as ``TaskClass(num_outputs, classes, config)``.
    """


@hookspec
def register_executors() -> Mapping[str, type[Executor] | str]:  # type: ignore[empty-body]
    """How a batch goes through the body, by the name that a scenario's ``executor`` section gives.

    Returns:
        Subclasses of :class:`rtl_continual.tickets.Executor`; each one's ``config_class`` is its
        section, and it is built as ``ExecutorClass(config)``.
    """


@hookspec
def register_exporters() -> Mapping[str, type[Exporter] | str]:  # type: ignore[empty-body]
    """What writes a ticket for use elsewhere, by the name that ``rtl export --format`` gives.

    Returns:
        Subclasses of :class:`rtl_continual.export.Exporter`; each one's ``config_class`` is its
        options, and it is built as ``ExporterClass(config)``.
    """


@hookspec
def register_report_sections() -> Mapping[str, type[Any] | str]:  # type: ignore[empty-body]
    """Sections at the end of ``report.html``.

    Returns:
        Subclasses of :class:`rtl_continual.runs.ReportSection`; the page sorts them by name.
    """


@hookspec(firstresult=True)
def choose_router(bank: TicketBank, config: BaseModel) -> Router | None:
    """Decide which router a new bank gets. The first answer that is not ``None`` counts.

    Args:
        bank: the bank, still without tickets and without a router.
        config: the scenario's ``router`` section.

    Returns:
        A router that knows no ticket yet, or ``None`` to leave the choice to others; in the end
        the router that ``config`` names is built.
    """


@hookspec(firstresult=True)
def relax_sparsity(report: CollapseReport) -> Relaxation | None:
    """Decide what to do about a ticket that is about to collapse, before its policy is asked.

    The first answer that is not ``None`` counts; without one the policy of ``tickets.collapse``
    decides. ``Relaxation(target=report.target)`` goes on as planned. Asked in the process that
    learns the ticket, and at most ``max_relaxations`` times for each.

    Args:
        report: what the ticket's monitor saw.

    Returns:
        The relaxation, or ``None`` to leave it to others.
    """


@hookspec
def run_started(scenario: Any, folder: Path) -> None:
    """Hear that a run starts, or goes on after it was cut off.

    Args:
        scenario: the checked :class:`rtl_continual.runs.Scenario`.
        folder: the run's folder.
    """


@hookspec
def run_finished(scenario: Any, folder: Path, results: Mapping[str, Any]) -> None:
    """Hear that a run is finished; ``results.json`` lies in its folder, whole.

    Args:
        scenario: the checked :class:`rtl_continual.runs.Scenario`.
        folder: the run's folder.
        results: the content of ``results.json``.
    """


@hookspec
def ticket_added(folder: Path, unit: str, facts: Mapping[str, Any]) -> None:
    """Hear that a bank has got a ticket. Called in the process that drives the run.

    Args:
        folder: the run's folder.
        unit: seed and method, such as ``seed0.rtl``.
        facts: what ``metrics.jsonl`` says of it: ``ticket``, ``cluster``, ``parent``,
            ``sparsity``, ``samples``.
    """


@hookspec
def ticket_rejected(folder: Path, unit: str, facts: Mapping[str, Any]) -> None:
    """Hear that data asked for a ticket and will not get it.

    Args:
        folder: the run's folder.
        unit: seed and method, such as ``seed0.rtl``.
        facts: ``reason``, and in a run ``experience`` and ``groups``: how many clusters go without.
    """


@hookspec
def shift_detected(folder: Path, unit: str, facts: Mapping[str, Any]) -> None:
    """Hear that data have left what the bank's tickets know (``growth: discover``).

    The first data of an empty bank count too.

    Args:
        folder: the run's folder.
        unit: seed and method, such as ``seed0.rtl``.
        facts: ``clusters`` that are new, ``samples`` in them, and in a run ``experience``.
    """


@hookspec
def collapse_detected(folder: Path, unit: str, facts: Mapping[str, Any]) -> None:
    """Hear that a ticket is about to collapse; what is done about it follows as ``relaxation``.

    Args:
        folder: the run's folder.
        unit: seed and method, such as ``seed0.rtl``.
        facts: the fields of :class:`rtl_continual.training.CollapseReport`; ``ticket`` is the id,
            ``cluster`` the name.
    """
