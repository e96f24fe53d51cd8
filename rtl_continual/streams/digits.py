"""The built-in stream: ten digits in five domains, rendered on this machine.

=============  ====================================================================  ==============
domain         what it looks like                                                    made from
=============  ====================================================================  ==============
handwritten    white pen strokes on black                                            UCI digits
photo          the same strokes as the difference to a photograph (MNIST-M's way)    UCI digits
printed        dark, partly worn print on light paper; random font, size and angle   twenty fonts
street         coloured print on a blurred photograph, with neighbours (SVHN's look)  twenty fonts
outline        thin lines around the strokes, a sketch                               UCI digits
=============  ====================================================================  ==============

Test, validation and training parts are disjoint at the source. One handwritten original is in the
same part in all three domains made from it. Where a font is drawn, each image is a draw of its own
(font, size, angle, place, colours) and belongs to one part; the twenty fonts occur in every part.
Photographs are cut into tiles, and tiles of test images are used for nothing else. The writers of
the UCI digits are not named in scikit-learn's copy, so one writer's digits occur in every part.

Sources: Alpaydin and Kaynak (1998), "Optical Recognition of Handwritten Digits" (UCI), as shipped
by scikit-learn; Ganin et al. (2016) for MNIST-M; Netzer et al. (2011) for SVHN.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rtl_continual.streams._render import CLASSES, DOMAINS, DomainImages, render_digits
from rtl_continual.streams._rendered import RenderedConfig, arrange, load_rendered
from rtl_continual.streams._stream import Stream

__all__ = ["DigitsConfig", "build_digits"]

RENDER_VERSION = 2
"""Raised when the drawing code changes what it draws."""


class DigitsConfig(RenderedConfig):
    """Options of the stream ``digits``.

    Example:
        >>> DigitsConfig(domains=["printed", "street"], imbalance=50).mix
        1
    """

    all_domains: ClassVar[tuple[str, ...]] = DOMAINS
    all_classes: ClassVar[tuple[str, ...]] = CLASSES

    name: Literal["digits"] = Field(default="digits", description="The stream's name.")
    domains: tuple[str, ...] = Field(
        default=DOMAINS, min_length=1, description="Domains in the order in which they arrive."
    )
    distractors: int = Field(
        default=2, ge=0, le=6, description="Neighbouring digits in a street image; more is harder."
    )


def build_digits(config: DigitsConfig) -> Stream:
    """Render the stream, or load it from the cache folder.

    Args:
        config: the options.

    Raises:
        DataError: if the cache folder cannot be written.
    """
    return arrange(*_load_domains(config), config)


def _load_domains(config: DigitsConfig) -> tuple[dict[str, DomainImages], str]:
    def make() -> dict[str, np.ndarray]:
        domains = render_digits(config.seed, config.distractors)
        return {
            f"{domain}.{field}": value
            for domain, data in domains.items()
            for field, value in vars(data).items()
        }

    stem = f"digits-v{RENDER_VERSION}-seed{config.seed}-distractors{config.distractors}"
    arrays, content = load_rendered(stem, make)
    fields = DomainImages.__dataclass_fields__
    domains = {
        domain: DomainImages(**{field: arrays[f"{domain}.{field}"] for field in fields})
        for domain in DOMAINS
    }
    return domains, content
