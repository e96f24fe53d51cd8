"""Options of a backbone."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

__all__ = ["BackboneConfig"]


class BackboneConfig(BaseModel):
    """Which network, cut where, with which weights; the ``backbone`` section of a scenario."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("glyphnet", description="the architecture, one of backbone_names()")
    weights: str = Field(
        "built-in",
        description="built-in (glyphnet alone), torchvision:<enum>, package (efficientnet_lite0 "
        "alone: the file of an installed package, its hash checked), random:<seed>, "
        "or the path of a .safetensors, .pt or .pth file",
    )
    split: str | None = Field(
        None, description="last stage of the trunk; null takes the architecture's default"
    )
    taps: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="trunk stages whose statistics the router reads; null reads the last one",
    )
    readout: Literal["final", "blocks"] = Field(
        "final",
        description="what heads read. final: the network's last features; blocks: the means of "
        "every block's output in the body beside them",
    )
    end: str | None = Field(
        None,
        description="last stage of the body, whose mean over all places (or tokens) is then the "
        "network's last features; null takes the whole network",
    )
    width: int = Field(24, ge=1, description="channels of glyphnet's stem; for glyphnet alone")
    mean: tuple[float, float, float] | None = Field(
        None,
        description="subtracted from channels of 0 to 1; null takes what the weights are known to "
        "want, for a file what its architecture usually wants",
    )
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        None, description="divides what is left; null as with mean"
    )
    input_size: int | None = Field(
        None,
        ge=1,
        description="height and width of the images in pixels; null takes the architecture's own",
    )
