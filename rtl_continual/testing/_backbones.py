"""What every backbone must hold to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.func import functional_call

from rtl_continual.backbones import Backbone
from rtl_continual.errors import RTLError
from rtl_continual.testing._suite import Outcome, Suite, require
from rtl_continual.tickets import MaskLayout

__all__ = ["BACKBONE_SUITE", "check_backbone"]

BACKBONE_SUITE: Suite[Backbone] = Suite("backbone")

Build = Callable[[], Backbone]


def check_backbone(build: Build) -> list[Outcome]:
    """Check a backbone: frozen, deterministic, sample by sample, and maskable.

    Args:
        build: makes the backbone.

    Returns:
        One outcome per property.

    Raises:
        ConformanceError: with every property that does not hold.

    Example:
        >>> from rtl_continual.backbones import build_backbone
        >>> outcomes = check_backbone(lambda: build_backbone("glyphnet", weights="random:0"))
        >>> all(outcome.passed for outcome in outcomes)
        True
    """
    return BACKBONE_SUITE.check(build)


def _images(backbone: Backbone, count: int = 3) -> torch.Tensor:
    spec = backbone.input_spec
    height, width = spec.size or (32, 32)
    generator = torch.Generator().manual_seed(0)
    shape = (count, spec.channels, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@BACKBONE_SUITE.add
def is_frozen(build: Build) -> None:
    """No parameter takes gradients, and nothing is in training mode."""
    backbone = build()
    thawed = [name for name, p in backbone.named_parameters() if p.requires_grad]
    require(not thawed, f"parameters take gradients: {', '.join(thawed[:3])}")
    backbone.train()
    training = [name for name, m in backbone.body.named_modules() if m.training]
    require(not training, "train() puts the body into training mode")


@BACKBONE_SUITE.add
def trunk_gives_router_features(build: Build) -> None:
    """Finite, ``[batch, router_feature_dim]``."""
    backbone = build()
    found = backbone.run_trunk(_images(backbone)).router_features
    wanted = [3, backbone.router_feature_dim]
    require(list(found.shape) == wanted, f"router features are {list(found.shape)}, not {wanted}")
    require(torch.isfinite(found).all(), "a router feature is not finite")


@BACKBONE_SUITE.add
def body_gives_features(build: Build) -> None:
    """Finite, ``[batch, feature_dim]``."""
    backbone = build()
    found = backbone(_images(backbone))
    wanted = [3, backbone.feature_dim]
    require(list(found.shape) == wanted, f"the body gives {list(found.shape)}, not {wanted}")
    require(torch.isfinite(found).all(), "a feature is not finite")


@BACKBONE_SUITE.add
def same_images_give_the_same_features(build: Build) -> None:
    """A second pass has the same bits."""
    backbone = build()
    images = _images(backbone)
    require(torch.equal(backbone(images), backbone(images)), "a second pass differs")


@BACKBONE_SUITE.add
def does_not_depend_on_the_batch(build: Build) -> None:
    """An image alone and in its batch gives the same features, to rounding."""
    backbone = build()
    images = _images(backbone)
    whole = torch.cat([backbone(images[i : i + 1]) for i in range(len(images))])
    batch = backbone(images)
    gap = float((whole - batch).abs().max() / batch.abs().max().clamp_min(1e-6))
    require(gap < 1e-4, f"features alone and in a batch differ by {gap:.2g} of their size")


@BACKBONE_SUITE.add
def is_built_the_same_again(build: Build) -> None:
    """Two builds have one identity."""
    require(build().identity == build().identity, "two builds have different weights")


@BACKBONE_SUITE.add
def saves_and_loads(build: Build) -> None:
    """A state dict restores the identity."""
    one, other = build(), build()
    state = {key: value.clone() for key, value in one.state_dict().items()}
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(state)
    require(other.compute_identity() == one.compute_identity(), "the identity is not restored")


@BACKBONE_SUITE.add
def body_can_be_masked(build: Build) -> None:
    """Tickets find weights to mask, and masking them changes the features."""
    backbone = build()
    layout = MaskLayout.of(backbone.body)
    require(layout.total > 0, "the body has no weight of rank two or more")
    images = _images(backbone)
    activation = backbone.run_trunk(images).activation
    empty = {
        name: torch.zeros_like(parameter)
        for name, parameter in backbone.body.named_parameters()
        if name in layout.shapes
    }
    masked = functional_call(backbone.body, empty, (activation,))
    require(not torch.equal(masked, backbone.body(activation)), "masking changes no feature")


@BACKBONE_SUITE.add
def leaves_its_images_alone(build: Build) -> None:
    """The batch keeps its bits."""
    backbone = build()
    images = _images(backbone)
    before = images.clone()
    backbone(images)
    require(torch.equal(images, before), "a pass changes the images")


@BACKBONE_SUITE.add
def takes_an_empty_batch(build: Build) -> None:
    """No images in, no features out."""
    backbone = build()
    none = _images(backbone)[:0]
    for what, found, width in (
        ("router features", backbone.run_trunk(none).router_features, backbone.router_feature_dim),
        ("features", backbone(none), backbone.feature_dim),
    ):
        shape = list(found.shape)
        require(shape == [0, width], f"no images give {what} {shape}, not {[0, width]}")


@BACKBONE_SUITE.add
def refuses_what_is_no_image(build: Build) -> None:
    """A wrong number of channels, a missing batch dimension, other types: a clear message."""
    backbone = build()
    images = _images(backbone)
    for what, wrong in (
        ("a channel too many", torch.cat([images, images[:, :1]], dim=1)),
        ("no batch dimension", images[0]),
        ("int64", images.long()),
    ):
        try:
            backbone.run_trunk(wrong)
        except RTLError:
            continue
        raise AssertionError(f"{what}: run_trunk() must raise a subclass of RTLError")


@BACKBONE_SUITE.add
def takes_bytes_and_fractions_alike(build: Build) -> None:
    """``uint8`` in 0..255 and floating point in 0..1 are the same image."""
    backbone = build()
    images = _images(backbone)
    one, other = backbone(images), backbone(images.float() / 255)
    gap = float((one - other).abs().max() / one.abs().max().clamp_min(1e-6))
    require(gap < 1e-4, f"bytes and fractions differ by {gap:.2g} of their size")


@BACKBONE_SUITE.add
def training_a_ticket_leaves_it_alone(build: Build) -> None:
    """Gradients reach a ticket's weights, and no parameter of the backbone."""
    backbone = build()
    layout = MaskLayout.of(backbone.body)
    weights = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in backbone.body.named_parameters()
        if name in layout.shapes
    }
    before = backbone.compute_identity()
    activation = backbone.run_trunk(_images(backbone)).activation
    functional_call(backbone.body, weights, (activation,)).square().sum().backward()
    reached = any(weight.grad is not None and weight.grad.any() for weight in weights.values())
    require(reached, "no gradient reaches the weights that tickets mask")
    leaks = [name for name, p in backbone.named_parameters() if p.grad is not None]
    require(not leaks, f"gradients leak into {', '.join(leaks[:3])}")
    require(backbone.compute_identity() == before, "a backward pass changes the backbone")
