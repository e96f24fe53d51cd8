"""A ticket as a network of its own, smaller where its mask drops whole units."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from rtl_continual.tickets._attention import HeadAttention
from rtl_continual.tickets._units import UnitGroup

__all__ = ["slim_body"]


@torch.no_grad()
def slim_body(
    body: nn.Module, values: Mapping[str, torch.Tensor], groups: tuple[UnitGroup, ...]
) -> nn.Module:
    """A copy of a body with a ticket's weights, without the units that they do not use.

    A unit is left out if its column is all zeros: then nothing of it reaches the output, whatever
    biases make of it. What remains computes the same, up to the order of sums.

    Args:
        body: stays as it is.
        values: masked weights and norm state, by name.
        groups: the body's units.
    """
    slim = copy.deepcopy(body)
    slim.load_state_dict({**slim.state_dict(), **values})
    for group in groups:
        made, read = slim.get_parameter(group.made_by), slim.get_parameter(group.read_by)
        keep = torch.nonzero(group.inputs(read).flatten(1).any(dim=1)).flatten()
        if len(keep) == 0:
            keep = torch.zeros(1, dtype=torch.int64, device=read.device)
        if len(keep) == group.size:
            continue
        rows = group.outputs(torch.arange(made.shape[0], device=read.device))[keep]
        columns = group.inputs(torch.arange(read.shape[1], device=read.device)[None])[keep]
        if group.heads:
            _replace_attention(slim, group.producer, len(keep))
        for name in (group.producer, *group.through):
            _take_outputs(slim.get_submodule(name), rows.transpose(0, 1).flatten())
        _take_inputs(slim.get_submodule(group.consumer), columns.flatten())
    return slim.eval()


def _replace_attention(body: nn.Module, name: str, heads: int) -> None:
    attention = body.get_submodule(name)
    assert isinstance(attention, nn.MultiheadAttention)
    body.set_submodule(name, HeadAttention(attention, heads))


def _take_outputs(module: nn.Module, rows: torch.Tensor) -> None:
    """Leave only these outputs of a layer, or channels of one that treats each alone."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter[rows].clone(), False)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.ndim:
            module._buffers[name] = buffer[rows].clone()
    count = len(rows)
    if isinstance(module, nn.Linear):
        module.out_features = count
    elif isinstance(module, nn.Conv2d):
        module.out_channels = count
        if module.groups > 1:
            module.groups = module.in_channels = count
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        module.num_features = count
    else:
        assert isinstance(module, HeadAttention)


def _take_inputs(module: nn.Module, columns: torch.Tensor) -> None:
    assert isinstance(module, (nn.Conv2d, nn.Linear))
    module.weight = nn.Parameter(module.weight[:, columns].clone(), requires_grad=False)
    if isinstance(module, nn.Linear):
        module.in_features = len(columns)
    else:
        module.in_channels = len(columns)
