"""Mode ``joint``: the paper's own procedure, offline, with the number of groups known.

Iterative magnitude pruning finds a mask per group from one shared starting point, then one shared
set of weights is trained under all masks in turn (arXiv 2601.22141). Unlike frozen tickets the
weights move, so a bank made this way has a backbone of its own and the masks only fit that one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from rtl_continual.errors import DataError
from rtl_continual.routing import FeatureMixture
from rtl_continual.streams import ImageSet
from rtl_continual.tickets import Mask, Skeleton, Ticket, TicketBank, TicketInfo, top_scores
from rtl_continual.training._augment import random_shift
from rtl_continual.training._epochs import epoch_batches, steps_per_epoch
from rtl_continual.training._learn import TrunkCache
from rtl_continual.training._learner import batch_norm_mode

__all__ = ["JointConfig", "learn_joint"]


class JointConfig(BaseModel):
    """Options of the paper's procedure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: float = Field(0.9, ge=0, lt=1, description="fraction of the body's weights to drop")
    rounds: int = Field(4, ge=1, description="prune-and-rewind rounds")
    round_epochs: int = Field(3, ge=1, description="passes over a group's data in each round")
    retrain_epochs: int = Field(15, ge=1, description="passes over all data under the final masks")
    batch_size: int = Field(32, ge=2, description="images per step")
    lr: float = Field(0.001, gt=0, description="Adam's rate for weights, norm and heads")
    layer_floor: float = Field(
        0.1, ge=0, lt=1, description="each layer keeps at least this share of the mean density"
    )
    mixture_components: int = Field(4, ge=1, description="Gaussians that summarise router features")
    shift: int = Field(1, ge=0, description="training moves trunk activation maps so far; 0 is off")
    cache_bytes: int = Field(2 * 2**30, ge=0, description="trunk activations kept in memory")


class _Group:
    """One group's data, mask, norm state and head."""

    def __init__(self, bank: TicketBank, data: ImageSet, config: JointConfig, seed: int) -> None:
        self.bank = bank
        self._body = Skeleton(bank.backbone.body)
        self.cache = TrunkCache(bank, data, config.cache_bytes)
        self.device = bank.backbone.mean.device
        self.keep = torch.ones(bank.layout.total, dtype=torch.bool, device=self.device)
        self.seed = seed
        self.shift = config.shift
        self.generator = torch.Generator().manual_seed(seed)
        self.rewind()

    def rewind(self) -> None:
        """Norm state and head as at the start."""
        backbone = self.bank.backbone
        state, affine = backbone.body.state_dict(), {n for n, _ in backbone.body.named_parameters()}
        self.norm = {name: state[name].clone() for name in self.bank.norm_names}
        self.affine = [t.requires_grad_() for name, t in self.norm.items() if name in affine]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = self.bank.task.build_head(backbone.feature_dim)
        self.head: nn.Module = head.to(self.device)

    def parameters(self) -> list[torch.Tensor]:
        return [*self.affine, *self.head.parameters()]

    def loss(self, weights: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Task loss of a batch with ``weights`` under this group's mask."""
        activation, _, targets = self.cache.batch(index)
        if self.shift and activation.ndim == 4:
            activation = random_shift(activation, self.shift, self.generator)
        values = {**self.bank.layout.unflatten(weights * self.keep), **self.norm}
        with batch_norm_mode(self._body.module):
            features = self._body(values, activation)
        return self.bank.task.loss(self.head(features), targets)


def learn_joint(
    bank: TicketBank,
    groups: Sequence[ImageSet],
    config: JointConfig,
    *,
    infos: Sequence[TicketInfo],
    seed: int,
    on_stage: Callable[[str], None] | None = None,
) -> TicketBank:
    """Learn one ticket per group together with one shared set of weights.

    Args:
        bank: an empty bank; its backbone is the starting point and is not changed.
        groups: one data set per group.
        config: options.
        infos: name, cluster and provenance of each group's ticket; the rest is filled in.
        seed: of heads and batch order.
        on_stage: told what is going on, for a progress display.

    Returns:
        A new bank whose backbone holds the retrained weights, with its router fitted.

    Raises:
        DataError: if the bank is not empty, there is no group or one has no data, or training
            diverges.
    """
    if not groups:
        raise DataError("mode joint needs at least one group of data")
    if len(bank):
        raise DataError("mode joint starts from an empty bank; it cannot extend one")
    start = bank.layout.flatten(dict(bank.backbone.body.named_parameters())).detach()
    members = [_Group(bank, data, config, seed) for data in groups]
    for round_index in range(config.rounds):
        sparsity = 1 - (1 - config.sparsity) ** ((round_index + 1) / config.rounds)
        for info, member in zip(infos, members, strict=True):
            if on_stage is not None:
                on_stage(f"prune and rewind, round {round_index + 1}, {info.name}")
            weights = start.clone().requires_grad_()
            _train(member, weights, config, epochs=config.round_epochs, seed=seed + round_index)
            magnitude = weights.detach().abs().masked_fill(~member.keep, -1.0)
            member.keep = top_scores(magnitude, bank.layout, sparsity, config.layer_floor)
            member.rewind()
    weights = _retrain(members, start.clone().requires_grad_(), config, seed, on_stage)
    return _assemble(bank, members, weights, config, infos, seed)


def _train(
    member: _Group, weights: torch.Tensor, config: JointConfig, *, epochs: int, seed: int
) -> None:
    optimizer = torch.optim.Adam([weights, *member.parameters()], lr=config.lr)
    count = len(member.cache.targets)
    for epoch in range(epochs):
        for index in epoch_batches(count, config.batch_size, seed, epoch):
            optimizer.zero_grad()
            member.loss(weights, index).backward()
            optimizer.step()
    _check_finite(member, weights, config)


def _check_finite(member: _Group, weights: torch.Tensor, config: JointConfig) -> None:
    for tensor in (weights, *member.norm.values(), *member.head.parameters()):
        if not torch.isfinite(tensor).all():
            raise DataError(f"joint training diverged; lower lr, now {config.lr}")


def _retrain(
    members: Sequence[_Group],
    weights: torch.Tensor,
    config: JointConfig,
    seed: int,
    on_stage: Callable[[str], None] | None,
) -> torch.Tensor:
    """Round-robin over groups; each step moves only the weights inside its group's mask.

    Smaller groups repeat cyclically until the largest has been seen ``retrain_epochs`` times.
    """
    optimizer = torch.optim.Adam([weights], lr=config.lr)
    own = [torch.optim.Adam(member.parameters(), lr=config.lr) for member in members]
    streams = [_endless_batches(len(m.cache.targets), config.batch_size, seed) for m in members]
    longest = max(len(m.cache.targets) for m in members)
    steps = steps_per_epoch(longest, config.batch_size) * config.retrain_epochs
    for step in range(steps):
        if on_stage is not None and step % 20 == 0:
            on_stage(f"joint retraining, step {step} of {steps}")
        for member, batches, own_optimizer in zip(members, streams, own, strict=True):
            before = weights.detach().clone()
            optimizer.zero_grad()
            own_optimizer.zero_grad()
            member.loss(weights, next(batches)).backward()
            optimizer.step()
            own_optimizer.step()
            with torch.no_grad():  # Adam's momentum would move weights outside the mask too
                weights.copy_(torch.where(member.keep, weights, before))
    for member in members:
        _check_finite(member, weights, config)
    return weights.detach()


def _endless_batches(count: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    epoch = 0
    while True:
        yield from epoch_batches(count, batch_size, seed, epoch)
        epoch += 1


def _assemble(
    bank: TicketBank,
    members: Sequence[_Group],
    weights: torch.Tensor,
    config: JointConfig,
    infos: Sequence[TicketInfo],
    seed: int,
) -> TicketBank:
    backbone = bank.backbone.with_body_weights(
        bank.layout.unflatten(weights), source="joint retraining"
    )
    # The given bank keeps its own router, which knows none of these tickets.
    result = TicketBank(backbone, bank.task, copy.deepcopy(bank.router))
    mixtures = []
    for info, member in zip(infos, members, strict=True):
        mixture = FeatureMixture.fit(
            member.cache.features, components=config.mixture_components, seed=seed, held_out=True
        )
        mixtures.append(mixture)
        mask = Mask.from_flat(bank.layout, member.keep)
        result.append(
            Ticket(
                id=len(result),
                mask=mask,
                norm=member.norm,
                head=member.head.state_dict(),
                statistics=mixture.tensors(),
                info=replace(
                    info,
                    sparsity_target=config.sparsity,
                    samples=len(member.cache.targets),
                    similarity=result.similarity_to(mask),
                ),
            )
        )
    if result.router is not None:
        result.router.fit(mixtures)
    return result
