"""Image files as a data set to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from rtl_continual.backbones import InputSpec
from rtl_continual.store._images import DECODERS, decode_image, stack_images
from rtl_continual.streams import ImageSet

__all__ = ["ImageFiles"]


class ImageFiles(ImageSet):
    """A data set of image files, read when a batch is asked for.

    They are read as :func:`~rtl_continual.store.read_images` does it: what a ticket learns from and
    what it is asked later go through the same pixels.

    Args:
        files: one per image.
        targets: class indices ``[n]``.
        domains: domain indices ``[n]``.
        spec: of the backbone.
    """

    def __init__(
        self, files: Sequence[Path], targets: np.ndarray, domains: np.ndarray, spec: InputSpec
    ) -> None:
        self.files = list(files)
        self.targets = np.asarray(targets, dtype=np.int64)
        self.domains = np.asarray(domains, dtype=np.int64)
        self.spec = spec

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        index = np.asarray(indices, dtype=np.int64)
        files = [self.files[i] for i in index.tolist()]
        with ThreadPoolExecutor(DECODERS) as pool:
            images = list(pool.map(lambda file: decode_image(file, self.spec), files))
        return stack_images(images, files), torch.from_numpy(self.targets[index])

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageFiles:
        index = np.asarray(indices, dtype=np.int64)
        return ImageFiles(
            [self.files[i] for i in index.tolist()],
            self.targets[index],
            self.domains[index],
            self.spec,
        )
