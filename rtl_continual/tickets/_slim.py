"""A ticket as a network of its own, smaller where its mask drops whole units."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from rtl_continual.tickets._units import UnitGroup

__all__ = ["slim_body"]


@torch.no_grad()
def slim_body(
    body: nn.Module, values: Mapping[str, torch.Tensor], groups: tuple[UnitGroup, ...]
) -> nn.Module:
    """A copy of a body with a ticket's weights, without the units that they do not use.

    A unit is left out if its row or its column is all zeros: then nothing of it reaches the
    output. What remains computes the same, up to the order of sums.

    Args:
        body: stays as it is.
        values: masked weights and norm state, by name.
        groups: the body's units.
    """
    slim = copy.deepcopy(body)
    slim.load_state_dict({**slim.state_dict(), **values})
    modules = dict(slim.named_modules())
    for group in groups:
        producer, consumer = modules[group.producer], modules[group.consumer]
        rows = producer.weight.flatten(1).any(dim=1)
        columns = consumer.weight.transpose(0, 1).flatten(1).any(dim=1)
        keep = torch.nonzero(rows & columns).flatten()
        if len(keep) == 0:
            keep = torch.zeros(1, dtype=torch.int64, device=rows.device)
        _take_outputs(producer, keep)
        for name in group.through:
            _take_outputs(modules[name], keep)
        _take_inputs(consumer, keep)
    return slim.eval()


def _take_outputs(module: nn.Module, keep: torch.Tensor) -> None:
    """Leave only these outputs of a layer, or channels of one that treats each alone."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter[keep].clone(), False)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.ndim:
            module._buffers[name] = buffer[keep].clone()
    count = len(keep)
    if isinstance(module, nn.Linear):
        module.out_features = count
    elif isinstance(module, nn.Conv2d):
        module.out_channels = count
        if module.groups > 1:
            module.groups = module.in_channels = count
    else:
        assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
        module.num_features = count


def _take_inputs(module: nn.Module, keep: torch.Tensor) -> None:
    assert isinstance(module, (nn.Conv2d, nn.Linear))
    module.weight = nn.Parameter(module.weight[:, keep].clone(), requires_grad=False)
    if isinstance(module, nn.Linear):
        module.in_features = len(keep)
    else:
        module.in_channels = len(keep)
