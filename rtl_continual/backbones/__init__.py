"""Backbones: frozen networks split into trunk and body."""

from rtl_continual.backbones._backbone import Backbone, InputSpec, TrunkOutput, activation_statistics

__all__ = ["Backbone", "InputSpec", "TrunkOutput", "activation_statistics"]
