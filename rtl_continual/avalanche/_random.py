"""Random state that evaluation must not touch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["same_random_state"]


@contextmanager
def same_random_state(device: torch.device) -> Iterator[None]:
    """Leave the global generators of torch, numpy and Python as they were found.

    Loaders, transforms and loggers draw from them, so that training would otherwise depend on
    how often it was interrupted by evaluations.
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
