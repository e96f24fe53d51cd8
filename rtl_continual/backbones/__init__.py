"""Backbones: frozen networks split into trunk and body."""

from rtl_continual.backbones._backbone import Backbone, InputSpec, TrunkOutput
from rtl_continual.backbones._build import (
    BUILT_IN_BACKBONES,
    BackboneSource,
    backbone_config_class,
    backbone_names,
    build_backbone,
    check_stages,
    split_names,
)
from rtl_continual.backbones._config import BackboneConfig
from rtl_continual.backbones._depthwise import DepthwiseConv2d
from rtl_continual.backbones._flops import backbone_flops, statistics_flops
from rtl_continual.backbones._readout import BlockReadout
from rtl_continual.backbones._recorded import RecordedBackbone
from rtl_continual.backbones._statistics import activation_statistics

__all__ = [
    "BUILT_IN_BACKBONES",
    "Backbone",
    "BackboneConfig",
    "BackboneSource",
    "BlockReadout",
    "DepthwiseConv2d",
    "InputSpec",
    "RecordedBackbone",
    "TrunkOutput",
    "activation_statistics",
    "backbone_config_class",
    "backbone_flops",
    "backbone_names",
    "build_backbone",
    "check_stages",
    "split_names",
    "statistics_flops",
]
