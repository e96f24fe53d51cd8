"""Options of adding tickets from new data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rtl_continual.discovery import DiscoveryConfig
from rtl_continual.training import CollapseConfig, TicketConfig

__all__ = ["AddConfig"]


class AddConfig(BaseModel):
    """When new data get a ticket, how it is learned, and what it must be worth.

    Example:
        >>> AddConfig(margin=0.05).tickets.sparsity
        0.9
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    growth: Literal["discover", "one"] = Field(
        "discover",
        description="discover: discovery decides which images need a ticket; one: all of them get "
        "one, whatever it would say",
    )
    holdout: float = Field(
        0.25, gt=0, lt=1, description="fraction of each class on which a new ticket is judged"
    )
    margin: float = Field(
        0.02,
        ge=0,
        le=1,
        description="balanced accuracy that the bank must gain on the held-out images by a new "
        "ticket, over the bank before and over each of its tickets",
    )
    max_taken: float = Field(
        0.1,
        ge=0,
        le=1,
        description="no old ticket may lose more than this share of what is remembered of its "
        "data to the new one",
    )
    max_broken: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="leave out up to this share of the images that cannot be read; more of them "
        "are an error",
    )
    seed: int = Field(0, ge=0, description="of everything random")
    tickets: TicketConfig = Field(
        default_factory=lambda: TicketConfig(collapse=CollapseConfig()),
        description="as in a scenario's section of that name, but that collapse is watched for "
        "unless collapse is null",
    )
    discovery: DiscoveryConfig = Field(
        default_factory=DiscoveryConfig, description="as in a scenario's section of that name"
    )

    @field_validator("tickets", mode="before")
    @classmethod
    def _watched(cls, value: Any) -> Any:
        return {"collapse": {}, **value} if isinstance(value, dict) else value
