"""ADWIN, from river."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from rtl_continual.discovery._detector import ShiftDetector
from rtl_continual.errors import PluginError

__all__ = ["Adwin", "AdwinConfig"]


class AdwinConfig(BaseModel):
    """Options of the detector ``adwin``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["adwin"] = "adwin"
    delta: float = Field(0.002, gt=0, lt=1, description="risk of a false alarm at each comparison")


class Adwin(ShiftDetector):
    """Compares the older and the newer part of a window that grows while they agree.

    Bifet and Gavalda (2007), "Learning from Time-Changing Data with Adaptive Windowing". It
    compares the stream with its own past, so it needs some mini-batches of known domains first;
    a change downwards is none that matters here.

    Raises:
        PluginError: if river is not installed (it comes with the extra ``drift``).
    """

    name: ClassVar[str] = "adwin"
    config_class: ClassVar[type[BaseModel]] = AdwinConfig
    config: AdwinConfig

    def __init__(self, config: AdwinConfig | None = None) -> None:
        super().__init__(config)
        self._window: Any = None
        self._restart()

    def _evidence(self, statistic: float) -> float:
        before = float(self._window.estimation)
        self._window.update(statistic)
        return float(self._window.drift_detected and self._window.estimation > before)

    def _restart(self) -> None:
        try:
            from river.drift import ADWIN
        except ImportError as error:
            raise PluginError(
                "the detector 'adwin' needs river: pip install 'rtl-continual[drift]', "
                "or use discovery.detector.name=page_hinkley"
            ) from error
        # The numbers are one per mini-batch already, so every one is looked at.
        self._window = ADWIN(delta=self.config.delta, clock=1, min_window_length=3, grace_period=5)
