"""Limits and batching of a service."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ServeConfig"]


class ServeConfig(BaseModel):
    """What a service takes on, and how it puts requests together.

    Example:
        >>> ServeConfig(max_batch=8).max_wait_ms
        5.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch: int = Field(64, ge=1, description="images that go through the network at once")
    max_wait_ms: float = Field(
        5.0, ge=0, description="how long a request waits for others to share its batch"
    )
    max_queue: int = Field(
        1024, ge=1, description="images that may wait; what comes then is refused at once (503)"
    )
    max_images: int = Field(32, ge=1, description="images in one request")
    max_body: int = Field(16 * 2**20, ge=1, description="bytes of one request's body")
    max_pixels: int = Field(
        25_000_000, ge=1, description="width times height of an image, checked before decoding"
    )
    max_connections: int = Field(
        256, ge=1, description="connections at the same time; what comes then is refused (503)"
    )
    timeout: float = Field(
        30.0, gt=0, description="seconds until a body that does not come, or an answer, is given up"
    )
    watch: float = Field(
        0.0,
        ge=0,
        description="look for a new version every so many seconds; 0 waits for POST /reload",
    )
