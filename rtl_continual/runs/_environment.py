"""What a run's numbers were made with."""

from __future__ import annotations

import os
import platform
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import rtl_continual

__all__ = ["environment", "ignore_known_warnings", "versions"]

_PACKAGES = (
    "avalanche-lib",
    "numpy",
    "pillow",
    "safetensors",
    "scikit-learn",
    "torch",
    "torchvision",
)


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that numbers depend on."""
    found = {"python": platform.python_version(), "rtl_continual": rtl_continual.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def ignore_known_warnings() -> None:
    """Avalanche looks for quadratic-programme solvers on import, which only its GEM needs."""
    warnings.filterwarnings("ignore", message="no QP solver found", category=UserWarning)


def environment(threads: int, jobs: int, gpu: str | None) -> dict[str, Any]:
    """The machine, and how the run used it."""
    return {
        "python": platform.python_version(),
        "torch": versions()["torch"],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "gpu": gpu,
        "threads": threads,
        "jobs": jobs,
    }
