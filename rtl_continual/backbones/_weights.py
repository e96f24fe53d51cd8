"""Where weights come from: the package, torchvision, a file, or a seed."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from rtl_continual.errors import RTLError

__all__ = ["BUILT_IN", "load_weights", "parse_seed", "read_weights", "seeded"]

BUILT_IN = {"glyphnet": Path(__file__).parent / "weights" / "glyphnet.safetensors"}
"""Weight files that ship with the package, by architecture."""

_NESTS = ("state_dict", "model_state_dict", "model")
_SUFFIXES = (".safetensors", ".pt", ".pth")


def parse_seed(weights: str) -> int | None:
    """The seed of ``random:<seed>``, or ``None`` if ``weights`` is something else.

    Raises:
        RTLError: if the seed is no whole number of 0 or more.
    """
    kind, _, seed = weights.partition(":")
    if kind != "random":
        return None
    if not (seed.isascii() and seed.isdigit()) or int(seed) >= 2**63:
        raise RTLError(f"weights '{weights}': a seed is a whole number, as in 'random:0'")
    return int(seed)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch within the block, and leave its random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if seed is None else seed)
        yield


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a file without running anything that is in it.

    Args:
        path: a ``.safetensors`` file, or a ``.pt`` or ``.pth`` state dict as ``torch.save``
            writes it (possibly under ``state_dict``, ``model_state_dict`` or ``model``).

    Raises:
        RTLError: if the file is missing, of another kind, damaged, or holds more than tensors.
    """
    if path.suffix not in _SUFFIXES:
        raise RTLError(
            f"weights '{path}' are neither built-in, torchvision:<enum> nor random:<seed>, and no "
            f"file ending in {', '.join(_SUFFIXES)}"
        )
    if not path.is_file():
        raise RTLError(f"weights file '{path}' does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol, which may be any
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RTLError(
            f"weights file '{path}' was refused: it holds more than tensors, and reading the rest "
            "could run code. Save model.state_dict() alone, best as .safetensors"
        ) from error
    # Damaged bytes make the readers fail in ways of their own, KeyError among them.
    except Exception as error:
        raise RTLError(
            f"weights file '{path}' is damaged or not what its name says "
            f"({type(error).__name__}: {error})"
        ) from error
    return _unnest(content, path)


def _unnest(content: Any, path: Path) -> dict[str, torch.Tensor]:
    nested = [content[key] for key in _NESTS if isinstance(content, Mapping) and key in content]
    if len(nested) == 1 and _is_state(nested[0]):
        content = nested[0]
    if not _is_state(content):
        raise RTLError(f"weights file '{path}' holds no state dict (names to tensors)")
    return dict(content)


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items())
    )


def load_weights(
    network: nn.Module, state: Mapping[str, torch.Tensor], *, source: str, head: str | None
) -> None:
    """Copy a state dict into a network; every tensor must have its place.

    A prefix such as ``module.`` is stripped if, with exactly one prefix, the file has all the
    network's tensors; tensors beside that prefix belong to something else and are left out.

    Args:
        network: without its classifier.
        state: names to tensors.
        source: where they came from, for messages.
        head: prefix of the classifier's keys, which are left out.

    Raises:
        RTLError: if a tensor is missing, unexpected, or of another shape.
    """
    own = network.state_dict()
    found = _strip_prefix(set(own), state, source)
    if head is not None:
        found = {key: value for key, value in found.items() if not key.startswith(head)}
    shapes = [
        f"{key} is {list(value.shape)}, not {list(own[key].shape)}"
        for key, value in found.items()
        if key in own and own[key].shape != value.shape
    ]
    if shapes:
        raise RTLError(f"{source} does not fit the network: {_some(shapes)}")
    missing, unexpected = network.load_state_dict(found, strict=False)
    problems = [
        f"{len(keys)} tensors {kind} ({_some(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if problems:
        raise RTLError(f"{source} does not fit the network: {'; '.join(problems)}")


def _strip_prefix(
    wanted: set[str], state: Mapping[str, torch.Tensor], source: str
) -> dict[str, torch.Tensor]:
    wanted = {key for key in wanted if not key.endswith("num_batches_tracked")}
    if wanted <= state.keys():
        return dict(state)
    probe = min(wanted)
    prefixes = sorted(key[: -len(probe)] for key in state if key.endswith(f".{probe}"))
    fitting = [p for p in prefixes if all(p + key in state for key in wanted)]
    if len(fitting) > 1:
        raise RTLError(
            f"{source} holds the network more than once, under {', '.join(fitting)}: keep one"
        )
    if not fitting:
        return dict(state)
    return {
        key.removeprefix(fitting[0]): value
        for key, value in state.items()
        if key.startswith(fitting[0])
    }


def _some(items: list[str]) -> str:
    return ", ".join(items[:4]) + (", ..." if len(items) > 4 else "")
