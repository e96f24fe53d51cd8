"""Which images a run is judged on."""

from __future__ import annotations

from typing import Literal

import numpy as np

from rtl_continual.errors import DataError
from rtl_continual.streams import ImageSet, Stream, concatenate

__all__ = ["evaluation_sets"]


def evaluation_sets(
    stream: Stream, evaluate_on: Literal["test", "validation"]
) -> dict[str, ImageSet]:
    """One set per domain, by name, in the stream's order.

    Args:
        stream: the data.
        evaluate_on: the stream's test sets, or the validation parts of its experiences sorted by
            domain.

    Raises:
        DataError: if a domain has no validation images.
    """
    if evaluate_on == "test":
        return dict(stream.tests)
    sets: dict[str, ImageSet] = {}
    for index, name in enumerate(stream.domains):
        parts = [e.validation for e in stream.experiences if (e.validation.domains == index).any()]
        if not parts:
            raise DataError(
                f"evaluate_on: validation needs validation images of every domain; "
                f"stream '{stream.name}' has none of '{name}'"
            )
        sets[name] = concatenate([p.subset(np.flatnonzero(p.domains == index)) for p in parts])
    return sets
