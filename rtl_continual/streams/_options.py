"""Options that every stream of files has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rtl_continual.streams._decode import MAX_PIXELS, ImageForm

__all__ = ["FileStreamConfig"]


class FileStreamConfig(BaseModel):
    """What to take from the files under ``root``, and how to decode it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str = Field(min_length=1, description="Folder that holds the data.")
    seed: int = Field(
        default=0, ge=0, description="Seed of every random choice of images: splits and few shots."
    )
    classes: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Only these classes, by name; none means all."
    )
    images_per_class: int | None = Field(
        default=None,
        ge=1,
        description="At most this many training images per class and domain (few shots).",
    )
    limit_images: int | None = Field(
        default=None,
        ge=1,
        description="At most this many training and test images per domain: a dry run.",
    )
    validation_fraction: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="Fraction of each class's training images kept for validation.",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Images to leave out, as paths below the root."
    )
    image_size: int = Field(
        default=224, ge=8, le=2048, description="Side of the square images in pixels."
    )
    resize: int | None = Field(
        default=None,
        ge=8,
        le=4096,
        description=(
            "Length in pixels of the shorter side before the middle square is cut out; "
            "none means 8/7 of image_size (256 for 224)."
        ),
    )
    interpolation: Literal["bilinear", "bicubic"] = Field(
        default="bilinear", description="How pixels are interpolated; CLIP's weights want bicubic."
    )
    max_pixels: int = Field(
        default=MAX_PIXELS,
        ge=1,
        le=2 * MAX_PIXELS,
        description="Width times height above which a file is refused before it is decoded.",
    )
    workers: int = Field(default=4, ge=1, le=128, description="Threads that decode images.")
    cache: bool = Field(
        default=False,
        description=(
            "Keep decoded images in the cache folder (3 bytes per pixel, 150 kB at 224); "
            "after a change of the files, delete its folder decoded/."
        ),
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> FileStreamConfig:
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(
                f"resize must be at least image_size ({self.image_size}), got {self.resize}"
            )
        return self

    @property
    def folder(self) -> Path:
        """``root`` as a path, ``~`` expanded."""
        return Path(self.root).expanduser()

    def image_form(self, *, upright: bool) -> ImageForm:
        """How files become images."""
        resize = round(self.image_size * 8 / 7) if self.resize is None else self.resize
        return ImageForm(
            size=self.image_size,
            resize=resize,
            interpolation=self.interpolation,
            max_pixels=self.max_pixels,
            upright=upright,
        )
