"""Whose code raised an error, and where."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path

from rtl_continual.registry import Origin

__all__ = ["describe", "frame_of"]


def describe(error: BaseException) -> str:
    """Type, message and the last line of code: enough to find it without a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def frame_of(error: BaseException, roots: Mapping[str, Origin]) -> tuple[Origin, str] | None:
    """The innermost frame of a plugin's code.

    Args:
        error: as it was caught.
        roots: the plugins' modules or top-level packages.
    """
    found = None
    step = error.__traceback__
    while step is not None:
        module = step.tb_frame.f_globals.get("__name__", "")
        origin = roots.get(module) or roots.get(module.partition(".")[0])
        if origin is not None:
            found = origin, f"{Path(step.tb_frame.f_code.co_filename).name}:{step.tb_lineno}"
        step = step.tb_next
    return found
