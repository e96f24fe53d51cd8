"""Trunk outputs in memory-mapped files, for data sets larger than memory and for later runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtl_continual.errors import DataError
from rtl_continual.streams import ImageSet
from rtl_continual.tickets import TicketBank
from rtl_continual.training._learn import (
    TrunkCache,
    _channels_last_rows,
    _rows_to_channels_last,
)

__all__ = ["MappedTrunkCache"]


class MappedTrunkCache(TrunkCache):
    """The trunk's outputs for a data set, in files that are filled once and then mapped.

    Activations and router features of a data set lie in a folder of their own, whose name is a
    hash of all that they depend on: the backbone's identity, the data, the transform, and sizes.
    Filling can be stopped at any time; the next call goes on after the last batch that was
    finished. One process at a time may fill a folder.

    Args:
        bank: whose backbone to run.
        data: images and targets.
        folder: where the files go; one folder may hold many data sets.
        data_key: names the images and their order, such as the hash of a list file.
        transform: names what was done to the images.
        batch_size: images per trunk pass; progress is kept after each.

    Raises:
        DataError: if the data set is empty, a label is none of the task's, or the folder cannot
            be used.
    """

    def __init__(
        self,
        bank: TicketBank,
        data: ImageSet,
        folder: str | Path,
        *,
        data_key: str,
        transform: str,
        batch_size: int = 256,
    ) -> None:
        if len(data) == 0:
            raise DataError("cannot learn from an empty data set")
        self.backbone = bank.backbone
        self.data = data
        self.targets = torch.as_tensor(data.targets)
        bank.task.check_targets(self.targets)
        self._shapes = self._probe()
        facts = {
            "backbone": bank.backbone.identity,
            "data": data_key,
            "transform": transform,
            "samples": len(data),
            "shapes": self._shapes,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.folder = Path(folder) / digest[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
            self._fill(batch_size)
        except OSError as error:
            raise DataError(
                f"cannot keep trunk activations in {self.folder}: {error.strerror or error}"
            ) from error
        self.features = torch.from_numpy(np.array(self._map("features", "r"))).to(self._device)
        self._rows = self._map("activations", "r")
        self.activations = None

    @property
    def _device(self) -> torch.device:
        return self.backbone.mean.device

    @torch.no_grad()
    def _probe(self) -> dict[str, list[int]]:
        """Shapes of one sample's arrays."""
        activation, features = self._run(0, 1)
        return {"activations": list(activation.shape[1:]), "features": list(features.shape[1:])}

    def _run(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        images, _ = self.data.batch(range(start, stop))
        out = self.backbone.run_trunk(images.to(self._device))
        rows = _channels_last_rows(out.activation).float()
        return rows.cpu().numpy(), out.router_features.cpu().numpy()

    def _map(self, name: str, mode: Any) -> np.ndarray:
        shape = (len(self.data), *self._shapes[name])
        path = self.folder / f"{name}.f32"
        return np.memmap(path, dtype=np.float32, mode=mode, shape=shape)

    def _done(self, progress: Path) -> int:
        """Samples that are on the disk; none if a file is not what it should be."""
        for name, shape in self._shapes.items():
            path = self.folder / f"{name}.f32"
            if not path.is_file() or path.stat().st_size != 4 * len(self.data) * math.prod(shape):
                return 0
        text = progress.read_text() if progress.is_file() else ""
        return int(text) if text.isdecimal() else 0

    @torch.no_grad()
    def _fill(self, batch_size: int) -> None:
        progress = self.folder / "done"
        count = len(self.data)
        done = self._done(progress)
        if done >= count:
            return
        modes = dict.fromkeys(self._shapes, "r+" if done else "w+")
        maps: Any = {name: self._map(name, mode) for name, mode in modes.items()}
        while done < count:
            stop = min(done + batch_size, count)
            maps["activations"][done:stop], maps["features"][done:stop] = self._run(done, stop)
            for array in maps.values():
                array.flush()
            # Only what lies on the disk counts as done.
            written = progress.with_suffix(".new")
            written.write_text(str(stop))
            os.replace(written, progress)
            done = stop

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = torch.from_numpy(self._rows[index.cpu().numpy()]).to(self._device)
        targets = self.targets[index].to(self.features.device)
        return _rows_to_channels_last(rows), self.features[index], targets
