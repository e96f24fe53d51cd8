"""Backbones: frozen networks split into trunk and body."""

from rtl_continual.backbones._backbone import Backbone, InputSpec, TrunkOutput, activation_statistics
from rtl_continual.backbones._build import backbone_names, build_backbone, split_names
from rtl_continual.backbones._config import BackboneConfig

__all__ = [
    "Backbone",
    "BackboneConfig",
    "InputSpec",
    "TrunkOutput",
    "activation_statistics",
    "backbone_names",
    "build_backbone",
    "split_names",
]
