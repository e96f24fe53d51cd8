"""Counters in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)

_HELP = {
    "rtl_requests_total": ("counter", "Requests answered, by route and status."),
    "rtl_request_seconds": ("histogram", "Seconds from a prediction's request to its answer."),
    "rtl_images_total": ("counter", "Images answered, by version and ticket; -1 is no ticket."),
    "rtl_batch_images": ("histogram", "Images in one pass through the network."),
    "rtl_queued_images": ("gauge", "Images that wait."),
    "rtl_bank_version": ("gauge", "Version in service."),
    "rtl_bank_tickets": ("gauge", "Tickets of that version."),
    "rtl_reloads_total": ("counter", "Reloads, by result: changed, unchanged or failed."),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Numbers that threads may count together.

    Example:
        >>> metrics = Metrics()
        >>> metrics.count("rtl_reloads_total", result="changed")
        >>> print(metrics.text().splitlines()[-1])
        rtl_reloads_total{result="changed"} 1
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {}
        self._buckets: dict[str, tuple[Sequence[float], list[int], float]] = {
            "rtl_request_seconds": (_SECONDS, [0] * (len(_SECONDS) + 1), 0.0),
            "rtl_batch_images": (_IMAGES, [0] * (len(_IMAGES) + 1), 0.0),
        }

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            series = self._values.setdefault(name, {})
            series[key] = series.get(key, 0) + amount

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._values.setdefault(name, {})[()] = value

    def observe(self, name: str, value: float) -> None:
        """Add to a histogram."""
        with self._lock:
            bounds, counts, total = self._buckets[name]
            place = next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))
            counts[place] += 1
            self._buckets[name] = bounds, counts, total + value

    def text(self) -> str:
        """Everything, as ``text/plain; version=0.0.4``."""
        with self._lock:
            lines = []
            for name, (kind, text) in _HELP.items():
                found = self._series(name) if kind != "histogram" else self._histogram(name)
                if found:
                    lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *found]
        return "\n".join(lines) + "\n"

    def _series(self, name: str) -> list[str]:
        series: Mapping[Labels, float] = self._values.get(name, {})
        return [f"{name}{_labels(key)} {value:g}" for key, value in sorted(series.items())]

    def _histogram(self, name: str) -> list[str]:
        bounds, counts, total = self._buckets[name]
        lines, seen = [], 0
        for bound, count in zip([*bounds, None], counts, strict=True):
            seen += count
            edge = "+Inf" if bound is None else f"{bound:g}"
            lines.append(f'{name}_bucket{{le="{edge}"}} {seen}')
        return [*lines, f"{name}_sum {total:g}", f"{name}_count {seen}"]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    parts = (f'{key}="{_escaped(value)}"' for key, value in labels)
    return "{" + ",".join(parts) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
