"""What a ticket takes hold of in each family's body."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.func import functional_call

from rtl_continual.backbones import Backbone
from rtl_continual.tickets import MaskLayout, norm_state_names

NORMS = (nn.BatchNorm2d, nn.LayerNorm)


def weights_of_layers(body: nn.Module) -> set[str]:
    """Names of the weights of convolutions, linear layers and attention, by their types."""
    found = set()
    for prefix, module in body.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            found.add(f"{prefix}.weight")
        if isinstance(module, nn.MultiheadAttention):
            found.add(f"{prefix}.in_proj_weight")
    return found


def test_layers_weights_are_masked_and_nothing_else(family: Backbone) -> None:
    shapes = MaskLayout.of(family.body).shapes
    assert set(shapes) == weights_of_layers(family.body)
    assert not any("layer_scale" in name or "pos_embedding" in name for name in shapes)


def test_a_norms_whole_state_belongs_to_the_ticket(family: Backbone) -> None:
    names = norm_state_names(family.body)
    expected = set()
    for prefix, module in family.body.named_modules():
        if isinstance(module, NORMS):
            expected |= {f"{prefix}.{key}" for key in ("weight", "bias")}
        if isinstance(module, nn.BatchNorm2d):
            buffers = ("running_mean", "running_var", "num_batches_tracked")
            expected |= {f"{prefix}.{key}" for key in buffers}
    assert set(names) == expected
    assert len(names) == len(expected) > 0
    assert not set(names) & set(MaskLayout.of(family.body).shapes)


def test_masking_by_call_equals_masking_in_place(family: Backbone, images: torch.Tensor) -> None:
    body = family.body
    activation = family.run_trunk(images).activation
    given = activation.clone()
    layout = MaskLayout.of(body)
    parameters = dict(body.named_parameters())
    values = {
        name: parameters[name] * (torch.rand(shape) < 0.5) for name, shape in layout.shapes.items()
    }
    state = body.state_dict()
    for name in norm_state_names(body):
        if state[name].is_floating_point():
            values[name] = state[name] * 1.5 + 0.1
    masked = copy.deepcopy(body)
    masked.load_state_dict({**state, **values})
    dense = body(activation)
    assert not torch.equal(masked(activation), dense)
    assert torch.equal(functional_call(body, values, (activation,)), masked(activation))
    with torch.inference_mode():  # where attention has a fused kernel
        torch.testing.assert_close(
            functional_call(body, values, (activation,)), masked(activation), rtol=0, atol=0
        )
    assert torch.equal(body(activation), dense)
    assert torch.equal(activation, given)


def test_gradients_reach_every_mask_and_norm(family: Backbone, images: torch.Tensor) -> None:
    body = family.body
    layout = MaskLayout.of(body)
    names = [*layout.shapes, *norm_state_names(body)]
    parameters = dict(body.named_parameters())
    values = {n: parameters[n].detach().clone().requires_grad_() for n in names if n in parameters}
    functional_call(body, values, (family.run_trunk(images).activation,)).square().sum().backward()
    silent = [n for n, v in values.items() if v.grad is None or not v.grad.abs().sum() > 0]
    assert silent == []
