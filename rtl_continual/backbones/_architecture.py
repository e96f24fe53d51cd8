"""What a named architecture is: stages in order, of which the first ones make the trunk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from rtl_continual.backbones._backbone import InputSpec
from rtl_continual.errors import RTLError, unknown_name

__all__ = ["Architecture", "Network", "resolve_stage"]


class Network(NamedTuple):
    """A whole network.

    ``module`` is what weights are loaded into, its classifier replaced by an identity;
    ``take_apart`` then gives its stages in order; ``feature_dim`` is their output's width.
    """

    module: nn.Module
    take_apart: Callable[[], OrderedDict[str, nn.Module]]
    feature_dim: int


@dataclass(frozen=True)
class Architecture:
    """A named architecture.

    Args:
        name: the name in scenario files.
        default_split: last stage of the trunk unless a split is asked for.
        head: prefix of the classifier's keys in full state dicts; ``None`` without a classifier.
        input_spec: what images it takes when its weights say nothing else.
        build: makes the network with fresh weights, for one image size or ``None``, and a width.
        has_width: whether there is a width to set.
        fixed_size: whether its weights fit images of one size only.
    """

    name: str
    default_split: str
    head: str | None
    input_spec: InputSpec
    build: Callable[[int | None, int], Network]
    has_width: bool = False
    fixed_size: bool = False


def resolve_stage(kind: str, given: str, stages: Sequence[str]) -> str:
    """The stage called ``given``, or the last one of the group of that name.

    Args:
        kind: what is being named, for the message.
        given: a stage (``layer1_0``) or a group of stages (``layer1``).
        stages: the valid stages in order.

    Raises:
        RTLError: if there is no such stage.

    Example:
        >>> resolve_stage("split", "layer1", ["stem", "layer1_0", "layer1_1", "layer2_0"])
        'layer1_1'
    """
    if given in stages:
        return given
    group = [stage for stage in stages if given and stage.rpartition("_")[0] == given]
    if not group:
        raise RTLError(unknown_name(kind, given, stages))
    return group[-1]
