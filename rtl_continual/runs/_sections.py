"""Sections that plugins add to ``report.html``."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from markupsafe import Markup

from rtl_continual.errors import PluginError
from rtl_continual.plugins import blame, load_plugins
from rtl_continual.registry import Registry

__all__ = ["ReportSection", "extra_sections"]

_log = logging.getLogger(__name__)


class ReportSection(ABC):
    """A section at the end of ``report.html``; built without arguments, once per report."""

    name: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def render(self, results: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str | None:
        """The section's HTML, or ``None`` to leave it out.

        Args:
            results: the content of ``results.json``.
            events: those of ``metrics.jsonl``, in their order.
        """


def _check(name: str, value: Any) -> str | None:
    if not (isinstance(value, type) and issubclass(value, ReportSection)):
        return f"must be a subclass of rtl_continual.runs.ReportSection, got {value!r}"
    if getattr(value, "name", None) != name:
        return f"{value.__name__}.name must be '{name}', got {getattr(value, 'name', None)!r}"
    if not isinstance(getattr(value, "title", None), str):
        return f"{value.__name__} needs a title"
    return None


_SECTIONS: Registry[type[ReportSection]] = Registry("report section", _check)


def extra_sections(
    results: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Markup]]:
    """Title and HTML of each section that plugins add.

    A run's own plugins are loaded first; a report can be rendered again without them.

    Raises:
        PluginError: if a section cannot be rendered.
    """
    for source in results["config"].get("plugins", ()):
        try:
            load_plugins([source])
        except PluginError as error:
            _log.warning("its report sections are left out: %s", error)
    sections = []
    for section_class in _SECTIONS.values():
        try:
            html = section_class().render(results, events)
        except Exception as error:
            raise blame(error) from error
        if html is None:
            continue
        if not isinstance(html, str):
            raise PluginError(
                f"report section '{section_class.title}' ({section_class.__module__}): render must "
                f"give HTML text or None, got {html!r}"
            )
        sections.append((section_class.title, Markup(html)))
    return sections
