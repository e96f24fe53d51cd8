"""Backbones by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from rtl_continual.backbones._architecture import Architecture, resolve_stage
from rtl_continual.backbones._backbone import Backbone, InputSpec
from rtl_continual.backbones._clip import CLIP_VIT_B_16
from rtl_continual.backbones._config import BackboneConfig
from rtl_continual.backbones._glyphnet import GLYPHNET
from rtl_continual.backbones._lite import EFFICIENTNET_LITE0
from rtl_continual.backbones._packaged import PACKAGED, packaged_weights
from rtl_continual.backbones._readout import BlockReadout, PlacesMean
from rtl_continual.backbones._timm import from_timm
from rtl_continual.backbones._torchvision import TORCHVISION, torchvision_weights
from rtl_continual.backbones._weights import (
    BUILT_IN,
    load_weights,
    parse_seed,
    read_weights,
    seeded,
)
from rtl_continual.errors import PluginError, RTLError, unknown_name
from rtl_continual.registry import Registry, config_problem

__all__ = [
    "BUILT_IN_BACKBONES",
    "BackboneSource",
    "backbone_config_class",
    "backbone_names",
    "build_backbone",
    "check_stages",
    "split_names",
]

_DEFAULT = BackboneConfig()
_ARCHITECTURES = {
    "clip_vit_b_16": CLIP_VIT_B_16,
    "efficientnet_lite0": EFFICIENTNET_LITE0,
    "glyphnet": GLYPHNET,
    **TORCHVISION,
}


@dataclass(frozen=True)
class BackboneSource:
    """A named kind of backbone.

    Args:
        config_class: its options, :class:`BackboneConfig` or a subclass of it.
        build: makes the backbone that an instance of ``config_class`` describes.
    """

    config_class: type[BackboneConfig]
    build: Callable[[Any], Backbone]


def _check(name: str, value: Any) -> str | None:
    if not isinstance(value, BackboneSource):
        return f"must be a rtl_continual.backbones.BackboneSource, got {value!r}"
    config_class: Any = value.config_class
    if config_class is BackboneConfig:
        return None
    if not (isinstance(config_class, type) and issubclass(config_class, BackboneConfig)):
        return "its config_class must be a subclass of BackboneConfig"
    return config_problem(name, config_class)


_BACKBONES: Registry[BackboneSource] = Registry("backbone", _check)


def backbone_names() -> tuple[str, ...]:
    """The names of all backbones, sorted."""
    return tuple(_BACKBONES)


def backbone_config_class(name: str) -> type[BackboneConfig]:
    """The options of the backbone called ``name``.

    Raises:
        RTLError: if there is no such backbone.
    """
    return _BACKBONES.find(name).config_class


def split_names(name: str) -> tuple[str, ...]:
    """The stages after which an architecture can be split, in order.

    Raises:
        RTLError: if there is no such architecture.

    Example:
        >>> split_names("glyphnet")
        ('stem', 'block1', 'block2')
    """
    return _splits(_blank_stages(_architecture(name)))


def check_stages(config: BackboneConfig) -> tuple[str, str] | None:
    """The first option that names a stage which is not there, and what to say of it.

    No weights are made or read. Backbones of plugins know their stages only when they are built.
    """
    if BUILT_IN_BACKBONES.get(config.name) is not _BACKBONES.find(config.name):
        return None
    architecture = _architecture(config.name)
    stages = _blank_stages(architecture)
    for option in ("split", "taps", "end"):
        others = {"taps", "end"} - {option}
        part = config.model_copy(update=dict.fromkeys(others))
        try:
            _resolve(part, architecture, stages)
        except RTLError as error:
            return option, str(error)
    return None


def _blank_stages(architecture: Architecture) -> OrderedDict[str, nn.Module]:
    with torch.device("meta"):
        return architecture.build(None, _DEFAULT.width).take_apart()


def _resolve(
    config: BackboneConfig, architecture: Architecture, stages: OrderedDict[str, nn.Module]
) -> tuple[str, tuple[str, ...] | None, str | None]:
    """The trunk's last stage, the stages that routers read, and the body's last stage."""
    split = resolve_stage("split", config.split or architecture.default_split, _splits(stages))
    names = list(stages)
    cut = names.index(split) + 1
    taps = end = None
    if config.taps is not None:
        tapped = {resolve_stage("tap", tap, names[:cut]) for tap in config.taps}
        taps = tuple(name for name in names[:cut] if name in tapped)
    if config.end is not None:
        weighty = [i for i in _weighty(stages) if i >= cut]
        end = resolve_stage("end", config.end, names[weighty[0] : weighty[-1] + 1])
    return split, taps, end


def build_backbone(config: BackboneConfig | str, **overrides: Any) -> Backbone:
    """Build a named network, load its weights, and split it.

    Args:
        config: options, or the architecture's name.
        **overrides: fields of :class:`BackboneConfig` to set otherwise.

    Raises:
        RTLError: if an option, a split, a tap or the weights do not fit.

    Example:
        >>> backbone = build_backbone("glyphnet", weights="random:0", split="stem")
        >>> backbone.split, backbone.feature_dim, backbone.router_feature_dim
        ('stem', 96, 48)
    """
    config = _merge(config, overrides)
    backbone = _BACKBONES.find(config.name).build(config)
    if not isinstance(backbone, Backbone):
        raise PluginError(
            f"backbone '{config.name}': its builder must give a Backbone, got {backbone!r}"
        )
    common = set(BackboneConfig.model_fields)
    backbone.options = config.model_dump(mode="json", exclude=common)
    return backbone


def _build_architecture(config: BackboneConfig) -> Backbone:
    """A backbone whose architecture this room knows."""
    architecture = _architecture(config.name)
    if config.width != _DEFAULT.width and not architecture.has_width:
        raise RTLError(f"backbone '{config.name}' has no width to set")
    seed = parse_seed(config.weights)
    state, spec = (
        (None, architecture.input_spec) if seed is not None else _read(architecture, config)
    )
    if config.input_size is not None:
        spec = replace(spec, size=(config.input_size, config.input_size))
    spec = replace(spec, mean=config.mean or spec.mean, std=config.std or spec.std)
    with seeded(seed):
        network = architecture.build(spec.size and spec.size[0], config.width)
    if state is not None:
        source = f"weights '{config.weights}' of backbone '{config.name}'"
        load_weights(network.module, state, source=source, head=architecture.head)
    stages = network.take_apart()
    split, taps, end = _resolve(config, architecture, stages)
    names = list(stages)
    cut = names.index(split) + 1
    trunk = nn.Sequential(OrderedDict((name, stages[name]) for name in names[:cut]))
    stop = len(names) if end is None else names.index(end) + 1
    rest = OrderedDict((name, stages[name]) for name in names[cut:stop])
    body: nn.Sequential = nn.Sequential(rest)
    feature_dim = network.feature_dim
    if end is not None or config.readout == "blocks":
        height, width = spec.size or (64, 64)
        with torch.no_grad():
            x = trunk.eval()(torch.zeros(1, spec.channels, height, width))
            if end is not None:
                last = body.eval()(x)
                rest["mean"] = PlacesMean(last.ndim)
                body = nn.Sequential(rest)
                feature_dim = rest["mean"](last).shape[1]
            if config.readout == "blocks":
                body = BlockReadout(rest, x)
                feature_dim = body.feature_dim
    return Backbone(
        config.name,
        trunk,
        body,
        feature_dim=feature_dim,
        input_spec=spec,
        split=split,
        weights=config.weights,
        taps=taps,
        readout=config.readout,
        end=end,
    )


BUILT_IN_BACKBONES = {
    name: BackboneSource(BackboneConfig, _build_architecture) for name in _ARCHITECTURES
}
"""What the built-in plugin registers."""


def _merge(config: BackboneConfig | str, overrides: dict[str, Any]) -> BackboneConfig:
    fields = {"name": config} if isinstance(config, str) else config.model_dump()
    config_class = backbone_config_class(fields["name"])
    try:
        return config_class.model_validate({**fields, **overrides})
    except ValidationError as error:
        problems = [
            f"backbone.{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}"
            for e in error.errors()
        ]
        raise RTLError("\n".join(problems)) from error


def _architecture(name: str) -> Architecture:
    if name not in _ARCHITECTURES:
        raise RTLError(unknown_name("backbone", name, _ARCHITECTURES))
    return _ARCHITECTURES[name]


def _splits(stages: OrderedDict[str, nn.Module]) -> tuple[str, ...]:
    """All stages but the last that has weights to mask, and what follows it."""
    return tuple(stages)[: _weighty(stages)[-1]]


def _weighty(stages: OrderedDict[str, nn.Module]) -> list[int]:
    """Where the stages lie that have weights to mask."""
    return [
        i for i, stage in enumerate(stages.values()) if any(p.ndim >= 2 for p in stage.parameters())
    ]


def _read(
    architecture: Architecture, config: BackboneConfig
) -> tuple[dict[str, torch.Tensor], InputSpec]:
    """Weights that are not random, and what images they were trained on."""
    weights = config.weights
    if weights.startswith("torchvision:"):
        state, spec = torchvision_weights(config.name, weights)
        size = config.input_size
        if architecture.fixed_size and size is not None and spec.size != (size, size):
            raise RTLError(
                f"weights '{weights}' of backbone '{config.name}' take images of {spec.size} "
                f"pixels alone, got input_size {size}"
            )
        return state, spec
    if weights == "package":
        return read_weights(packaged_weights(config.name)), architecture.input_spec
    if weights != "built-in":
        state = read_weights(Path(weights).expanduser())
        if config.name.startswith("vit_"):
            state = from_timm(state)
        return state, architecture.input_spec
    if config.name not in BUILT_IN:
        raise RTLError(
            f"backbone '{config.name}' has no built-in weights; give "
            f"{'package' if config.name in PACKAGED else 'torchvision:<enum>'}, random:<seed> "
            "or a file"
        )
    if config.width != _DEFAULT.width:
        raise RTLError(
            f"the built-in weights of '{config.name}' have width {_DEFAULT.width}, not "
            f"{config.width}; give random:<seed> or a file"
        )
    return read_weights(BUILT_IN[config.name]), architecture.input_spec
