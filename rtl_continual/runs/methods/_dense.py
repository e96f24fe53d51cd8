"""A dense, unfrozen copy of the backbone with a head, and how it is fine-tuned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from rtl_continual.backbones import Backbone, RecordedBackbone
from rtl_continual.errors import DataError
from rtl_continual.runs._method import MethodConfig
from rtl_continual.streams import ImageSet, read_ahead
from rtl_continual.training import (
    Loss,
    balanced_loss,
    epoch_batches,
    random_flip,
    random_shift,
    steps_per_epoch,
)

__all__ = [
    "DenseConfig",
    "DenseModel",
    "count_floats",
    "count_trainable",
    "dense_optimizer",
    "predict_labels",
    "train_dense",
]


class DenseConfig(MethodConfig):
    """How a dense network is fine-tuned; the rate falls to zero along a cosine."""

    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="sgd is Nesterov's, with momentum 0.9"
    )
    lr: float = Field(0.002, gt=0, description="the optimizer's first rate")
    weight_decay: float = Field(
        0.01, ge=0, description="of weights of rank 2 and more; norms and biases go without"
    )
    shift: int = Field(
        2,
        ge=0,
        description="training moves each image by up to so many pixels; 0 is off. With "
        "record_trunk the trunk's activation maps move instead, by so many of theirs",
    )
    flip: bool = Field(
        False, description="training mirrors half of the images (or maps), left to right"
    )
    norm_statistics: Literal["own", "backbone"] = Field(
        "own", description="what batch norms divide by: each batch's, or always the backbone's"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the arithmetic in training; bfloat16: autocast, as of tickets"
    )
    class_balance: float = Field(
        0.0, ge=0, le=4, description="weight of the adjustment for rare classes, as of tickets"
    )

    def loss(self, targets: np.ndarray, classes: int) -> Loss:
        """Cross-entropy for data with these labels, adjusted for rare classes if asked to."""
        labels = torch.as_tensor(targets)
        return balanced_loss(F.cross_entropy, labels, classes, self.class_balance)


class DenseModel(nn.Module):
    """An unfrozen copy of a backbone with a linear head.

    Args:
        backbone: is copied, and stays as it is.
        classes: outputs of the head.
        seed: of the head's first weights and of augmentation.
        shift: in training, images move by up to so many pixels; of a
            :class:`~rtl_continual.backbones.RecordedBackbone`, the recorded activation maps do.
        flip: in training, half of them are mirrored.
        own_statistics: batch norms gather statistics in training; else they keep the backbone's.
        precision: of the network's arithmetic in training; the head's is float32.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        seed: int,
        *,
        shift: int = 0,
        flip: bool = False,
        own_statistics: bool = True,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        self._precision = precision
        self.flip = flip
        self._own_statistics = own_statistics
        self.shift, self._seed, self._calls = shift, seed, 0
        self.network = nn.Sequential(copy.deepcopy(backbone.trunk), copy.deepcopy(backbone.body))
        self.network.requires_grad_(True)
        self._takes_images = _takes_images(backbone)
        self.network[0].requires_grad_(self._takes_images)
        self.network.to(memory_format=torch.channels_last)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(backbone.feature_dim, classes)
        self.device = backbone.mean.device
        self.head.to(self.device)
        # Bound methods: the frozen backbone itself is no part of this model.
        self._check, self._normalise = backbone.check_images, backbone.normalise

    @classmethod
    def configured(
        cls, backbone: Backbone, classes: int, seed: int, config: DenseConfig
    ) -> DenseModel:
        """A model with a method's own options."""
        return cls(
            backbone,
            classes,
            seed,
            shift=config.shift,
            flip=config.flip,
            own_statistics=config.norm_statistics == "own",
            precision=config.precision,
        )

    def train(self, mode: bool = True) -> DenseModel:
        super().train(mode)
        if not self._own_statistics:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``[batch, classes]`` of images ``[batch, channels, height, width]``."""
        self._check(images)
        if self._takes_images:
            images = self._augment(images)
        x = self._normalise(images.to(self.device)).contiguous(memory_format=torch.channels_last)
        low = self.training and self._precision == "bfloat16"
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=low):
            x = self.network[0](x)
            if not self._takes_images:
                x = self._augment(x)
            features = self.network[1](x)
        out: torch.Tensor = self.head(features.float())
        return out

    def _augment(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or x.ndim != 4 or not (self.shift or self.flip):
            return x
        # A generator of its own per call: a module that holds one cannot be copied.
        self._calls += 1
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._calls)
        if self.flip:
            x = random_flip(x, generator)
        if self.shift:
            x = random_shift(x, self.shift, generator)
        return x


def train_dense(
    model: DenseModel,
    data: ImageSet,
    config: DenseConfig,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    advance: Callable[[str], None],
) -> None:
    """Fine-tune every weight, with as many steps as a ticket makes on the same data.

    Args:
        model: is changed in place, and left in evaluation mode.
        data: what to learn from.
        config: optimizer and its options.
        epochs: passes over the data.
        batch_size: images per step.
        seed: of the order of the images.
        advance: told of every epoch's end.

    Raises:
        DataError: if the data set is empty, or training diverges.
    """
    if len(data) == 0:
        raise DataError("cannot learn from an empty data set")
    optimizer = dense_optimizer(model, config)
    steps = epochs * steps_per_epoch(len(data), batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    criterion = config.loss(data.targets, model.head.out_features)
    model.train()
    for epoch in range(epochs):
        total = torch.zeros((), device=model.device)
        order = epoch_batches(len(data), batch_size, seed, epoch)
        for images, targets in read_ahead(data, (index.numpy() for index in order)):
            optimizer.zero_grad()
            loss = criterion(model(images), targets.to(model.device))
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(targets)
        mean = float(total) / len(data)
        if not np.isfinite(mean):
            raise DataError(
                f"the dense network diverged in epoch {epoch + 1}; lower lr, now {config.lr}"
            )
        advance(f"epoch {epoch + 1} of {epochs}, loss {mean:.3f}")
    model.eval()


def dense_optimizer(model: DenseModel, config: DenseConfig) -> torch.optim.Optimizer:
    """The optimizer that every fine-tuned dense network is trained with."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.lr)


@torch.no_grad()
def predict_labels(model: DenseModel, images: ImageSet, batch_size: int = 256) -> np.ndarray:
    """Labels ``int64 [n]`` of a whole set."""
    parts = []
    rows = [
        np.arange(start, min(start + batch_size, len(images)))
        for start in range(0, len(images), batch_size)
    ]
    for batch, _ in read_ahead(images, rows):
        parts.append(model(batch).argmax(dim=1).cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _takes_images(backbone: Backbone) -> bool:
    """Whether images cross the trunk, which is trained then; records have crossed it before."""
    return not isinstance(backbone, RecordedBackbone)


def count_trainable(backbone: Backbone) -> int:
    """Weights of a backbone that fine-tuning moves."""
    part = backbone if _takes_images(backbone) else backbone.body
    return sum(p.numel() for p in part.parameters())


def count_floats(*modules: nn.Module) -> int:
    """Floating-point numbers that modules hold, running statistics included."""
    return sum(t.numel() for m in modules for t in m.state_dict().values() if t.is_floating_point())
