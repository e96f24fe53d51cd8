"""Page's test for a rise of the mean."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from rtl_continual.discovery._detector import ShiftDetector

__all__ = ["PageHinkley", "PageHinkleyConfig"]


class PageHinkleyConfig(BaseModel):
    """Options of the detector ``page_hinkley``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["page_hinkley"] = "page_hinkley"
    tolerance: float = Field(
        0.25, ge=0, description="rises of the mean log surprise up to this much are no shift"
    )
    threshold: float = Field(
        2.0, gt=0, description="how far the summed rises must climb above their minimum"
    )


class PageHinkley(ShiftDetector):
    """Sums what a number exceeds its usual value by, and alarms when the sum climbs too far.

    The test of Page (1954) for a rise, in Hinkley's (1971) form. The usual value is known here: a
    sample of a known domain has a surprise of about 0. So the alarm also works on a stream that
    has left the bank from its first mini-batch on.

    Example:
        >>> detector = PageHinkley()
        >>> [detector.observe(value).shift for value in (0.0, 0.1, 1.5, 1.5)]
        [False, False, False, True]
    """

    name: ClassVar[str] = "page_hinkley"
    config_class: ClassVar[type[BaseModel]] = PageHinkleyConfig
    config: PageHinkleyConfig

    def __init__(self, config: PageHinkleyConfig | None = None) -> None:
        super().__init__(config)
        self._climb = 0.0

    def _evidence(self, statistic: float) -> float:
        self._climb = max(0.0, self._climb + statistic - self.config.tolerance)
        return self._climb / self.config.threshold

    def _restart(self) -> None:
        self._climb = 0.0
