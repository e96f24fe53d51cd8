"""A frozen body with trained parts: norm and head (adapters), or a real-valued mask (Piggyback)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from rtl_continual.errors import DataError
from rtl_continual.routing import FeatureMixture
from rtl_continual.streams import ImageSet
from rtl_continual.tickets import Mask, Ticket, TicketBank, TicketInfo
from rtl_continual.training import (
    TrunkCache,
    batch_norm_mode,
    epoch_batches,
    random_flip,
    random_shift,
    steps_per_epoch,
)

__all__ = ["Recipe", "learn_adapted"]


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how.

    Args:
        epochs: passes over the data.
        batch_size: images per step.
        head_lr: Adam's first rate for the head.
        norm_lr: for the norm affine parameters; ``None`` leaves norms as they are.
        mask_lr: for the real-valued mask; ``None`` keeps every weight.
        mask_start: the real-valued mask's first value, everywhere.
        threshold: a weight stays where its mask's value is larger.
        shift: trunk activations move by up to so many of their pixels.
        flip: half of the trunk activations are mirrored.
        cache_bytes: trunk activations kept in memory.
    """

    epochs: int
    batch_size: int
    head_lr: float
    norm_lr: float | None = None
    mask_lr: float | None = None
    mask_start: float = 0.01
    threshold: float = 0.005
    shift: int = 1
    flip: bool = False
    cache_bytes: int = 2 * 2**30


class _Adapted:
    """The parts while they are trained."""

    def __init__(self, bank: TicketBank, recipe: Recipe, seed: int) -> None:
        self.bank, self.recipe = bank, recipe
        body, device = bank.backbone.body, bank.backbone.mean.device
        self.weights = bank.layout.flatten(dict(body.named_parameters())).detach()
        state = body.state_dict()
        self.norm = {name: state[name].detach().clone() for name in bank.norm_names}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head: nn.Module = bank.task.build_head(bank.backbone.feature_dim).to(device)
        self.generator = torch.Generator().manual_seed(seed)
        groups = [{"params": list(self.head.parameters()), "lr": recipe.head_lr}]
        if recipe.norm_lr is not None:
            affine = dict(body.named_parameters()).keys() & self.norm.keys()
            for name in sorted(affine):
                self.norm[name] = nn.Parameter(self.norm[name])
            groups.append({"params": [self.norm[n] for n in sorted(affine)], "lr": recipe.norm_lr})
        self.scores: torch.Tensor | None = None
        if recipe.mask_lr is not None:
            self.scores = torch.full_like(self.weights, recipe.mask_start).requires_grad_()
            groups.append({"params": [self.scores], "lr": recipe.mask_lr})
        self.optimizer = torch.optim.Adam(groups)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def keep(self) -> torch.Tensor:
        """Which weights stay ``[weights]``."""
        if self.scores is None:
            return torch.ones_like(self.weights, dtype=torch.bool)
        return self.scores.detach() > self.recipe.threshold

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        if self.recipe.flip and activation.ndim == 4:
            activation = random_flip(activation, self.generator)
        if self.recipe.shift and activation.ndim == 4:
            activation = random_shift(activation, self.recipe.shift, self.generator)
        weights = self.weights
        if self.scores is not None:
            # The gradient passes the threshold as if it were not there.
            weights = weights * (self.keep() + self.scores - self.scores.detach())
        values = {**self.bank.layout.unflatten(weights), **self.norm}
        body = self.bank.backbone.body
        with batch_norm_mode(body, self.recipe.norm_lr is not None):
            return self.head(functional_call(body, values, (activation,)))

    def step(self, activation: torch.Tensor, targets: torch.Tensor, progress: float) -> float:
        """One update; rates fall to zero along a cosine. Returns the loss."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = 0.5 * rate * (1 + math.cos(math.pi * progress))
        self.optimizer.zero_grad()
        loss = self.bank.task.loss(self.forward(activation), targets)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def learn_adapted(
    bank: TicketBank,
    data: ImageSet,
    recipe: Recipe,
    info: TicketInfo,
    *,
    seed: int,
    advance: Callable[[str], None],
) -> Ticket:
    """Train one set of parts; a bank can serve it as it serves a ticket.

    Args:
        bank: whose backbone stays frozen; it is not changed.
        data: what to learn from.
        recipe: what is trained, and how.
        info: name and provenance.
        seed: of head, order and augmentation.
        advance: told of every epoch's end.

    Raises:
        DataError: if the data set is empty, or training diverges.
    """
    cache = TrunkCache(bank, data, recipe.cache_bytes)
    parts = _Adapted(bank, recipe, seed)
    total, done = recipe.epochs * steps_per_epoch(len(data), recipe.batch_size), 0
    for epoch in range(recipe.epochs):
        loss = 0.0
        for index in epoch_batches(len(data), recipe.batch_size, seed, epoch):
            activation, _, targets = cache.batch(index)
            loss += parts.step(activation, targets, done / total) * len(index)
            done += 1
        if not math.isfinite(loss):
            raise DataError(f"'{info.name}' diverged in epoch {epoch + 1}; lower the rates")
        advance(f"{info.name}, epoch {epoch + 1} of {recipe.epochs}, loss {loss / len(data):.3f}")
    return Ticket(
        id=len(bank),
        mask=Mask.from_flat(bank.layout, parts.keep()),
        norm=parts.norm,
        head=parts.head.state_dict(),
        statistics=FeatureMixture.fit(cache.features, components=1, seed=seed).tensors(),
        info=info,
    )
