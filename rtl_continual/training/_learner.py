"""The one step by which every ticket is learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from rtl_continual.errors import DataError, PluginError
from rtl_continual.routing import FeatureMixture, FlatRouter, GateLearner
from rtl_continual.tickets import (
    CompiledSkeleton,
    Mask,
    MaskScores,
    Skeleton,
    Ticket,
    TicketBank,
    TicketInfo,
    UnitScores,
    build_schedule,
    find_units,
    magnitude_scores,
)
from rtl_continual.training._augment import random_flip, random_shift
from rtl_continual.training._balance import Loss
from rtl_continual.training._config import TicketConfig
from rtl_continual.training._driver import DecayingOptimizer
from rtl_continual.training._relaxation import Relaxation
from rtl_continual.training._watch import CollapseWatch

__all__ = ["TicketLearner", "batch_norm_mode", "drive_together", "joint_parameter_groups"]


class TicketLearner:
    """A ticket while it is being learned.

    Bank training and the Avalanche strategy both drive this class, in this order for each batch:
    :meth:`forward`, :meth:`loss`, :meth:`update`; then once :meth:`finish`. The backbone and the
    bank are read, never written.

    Args:
        bank: the bank the ticket will join.
        config: options.
        total_steps: updates planned; the sparsity schedule and the rates' decay span them.
        seed: of the fresh head.
        parent: the ticket to start from, or ``None`` for a cold start.
        features: router features ``[samples, features]`` of the data, for the gate's scaling.
        gate: the gate that is trained with this ticket and others; by default one for it alone.
        group: which of the tickets that are learned together this one is, counted from 0.
    """

    def __init__(
        self,
        bank: TicketBank,
        config: TicketConfig,
        *,
        total_steps: int,
        seed: int,
        parent: Ticket | None = None,
        features: torch.Tensor | None = None,
        gate: GateLearner | None = None,
        group: int = 0,
    ) -> None:
        self.bank = bank
        self.config = config
        self.total_steps = total_steps
        self.parent = parent
        self.steps_done = 0
        body = bank.backbone.body
        # Its batch norms are set to training mode, and other threads may be predicting.
        self._body = CompiledSkeleton(body) if config.compile else Skeleton(body)
        device = bank.backbone.mean.device
        weights = bank.layout.flatten(dict(body.named_parameters())).detach()
        initial, floor = self._initial_scores(weights), config.layer_floor
        self.scores = (
            MaskScores(bank.layout, weights, initial, floor=floor)
            if config.kind == "weights"
            else UnitScores(bank.layout, weights, initial, find_units(body), floor=floor)
        )
        state = body.state_dict() if parent is None else parent.norm
        self._own_statistics = config.norm_statistics == "own"
        self.norm = {name: state[name].detach().clone().to(device) for name in bank.norm_names}
        for name in dict(body.named_parameters()).keys() & self.norm.keys():
            self.norm[name] = nn.Parameter(self.norm[name])
        self._affine = [t for t in self.norm.values() if isinstance(t, nn.Parameter)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = bank.task.build_head(bank.backbone.feature_dim).to(device)
        if parent is not None:
            self.head.load_state_dict(self._head_to_start_from(parent))
        self._generator = torch.Generator().manual_seed(seed)
        self.group = group
        self.gate = gate
        if gate is None and features is not None:
            self.gate = self.build_gate(bank, config, [features])
        self.driver = DecayingOptimizer(self.build_optimizer(self.parameter_groups()))
        self.start_sparsity = (
            0.0 if parent is None else max(0.0, config.sparsity - config.start_gap)
        )
        self.target = config.sparsity
        self.schedule = build_schedule(config.schedule)
        self.watch: CollapseWatch | None = None
        self.task_loss: Loss = bank.task.loss
        self._frozen = False
        self._binarise(self.start_sparsity)

    def _head_to_start_from(self, parent: Ticket) -> dict[str, torch.Tensor]:
        """A merged ticket's head without the part that reads the unmasked body's features."""
        if not self.bank.is_merged(parent):
            return dict(parent.head)
        width = self.bank.backbone.feature_dim
        return {**parent.head, "weight": parent.head["weight"][:, :width]}

    def _initial_scores(self, weights: torch.Tensor) -> torch.Tensor:
        scores = magnitude_scores(self.bank.layout, weights)
        if self.parent is None:
            return scores
        if self.config.start == "core":
            known = torch.stack([t.mask.to_flat().float() for t in self.bank]).mean(dim=0)
        else:
            known = self.parent.mask.to_flat().float()
        share = self.config.start_strength
        return (1 - share) * scores + share * known.to(scores)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What an optimizer updates, with each kind's own rate."""
        parts: list[list[torch.Tensor]] = [
            [self.scores.scores],
            [*self._affine],
            [*self.head.parameters()],
        ]
        if self.gate is not None:
            parts.append(self.gate.parameters())
        rates = self.rates(self.config, gate=self.gate is not None)
        return [{"params": part, "lr": lr} for part, lr in zip(parts, rates, strict=True)]

    @staticmethod
    def build_gate(
        bank: TicketBank, config: TicketConfig, groups: Sequence[torch.Tensor]
    ) -> GateLearner | None:
        """The gate that is trained with new tickets, if the bank's router has one to train.

        Args:
            bank: the bank that they will join.
            config: options.
            groups: router features of each new ticket's data, ``[samples, features]``.
        """
        if not isinstance(bank.router, FlatRouter) or config.gate_weight <= 0:
            return None
        return bank.router.gate_learner(*groups)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What updates the parameters."""
        return self.driver.optimizer

    @staticmethod
    def build_optimizer(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer that updates these groups, whoever drives the learner."""
        return torch.optim.Adam(groups, fused=True)

    @staticmethod
    def rates(config: TicketConfig, *, gate: bool) -> list[float]:
        """The initial rates of :meth:`parameter_groups`, known before there is a learner."""
        return [config.score_lr, config.norm_lr, config.head_lr] + [0.01] * gate

    def forward(self, activation: torch.Tensor, *, training: bool = True) -> torch.Tensor:
        """Outputs ``[batch, classes]`` of the ticket as it stands, on trunk activations."""
        if training and self.config.flip and activation.ndim == 4:
            activation = random_flip(activation, self._generator)
        if training and self.config.shift and activation.ndim == 4:
            activation = random_shift(activation, self.config.shift, self._generator)
        return self.head(self._run(activation, self.norm, training))

    @torch.no_grad()
    def represent(self, activation: torch.Tensor, *, training: bool) -> torch.Tensor:
        """The body's features, as a training step (batch statistics) or a served ticket has them.

        Nothing changes: running statistics stay as they are.
        """
        norm = {name: value.detach().clone() for name, value in self.norm.items()}
        return self._run(activation, norm, training)

    @torch.no_grad()
    def batch_statistics(self, activation: torch.Tensor) -> dict[str, torch.Tensor]:
        """What each batch norm would divide by for these samples, by the name of its buffer.

        Nothing changes: running statistics stay as they are.
        """
        norm = {name: value.detach().clone() for name, value in self.norm.items()}
        with batch_norm_mode(self._body.module, momentum=1.0):
            self._body({**self.scores.effective(), **norm}, activation)
        return {
            name: value
            for name, value in norm.items()
            if value.is_floating_point() and not isinstance(self.norm[name], nn.Parameter)
        }

    def complete(self) -> None:
        """Bring the mask to its target, if training was stopped before it got there."""
        if self.steps_done < self.total_steps:
            self._binarise(self.target)

    def _run(
        self, activation: torch.Tensor, norm: Mapping[str, torch.Tensor], training: bool
    ) -> torch.Tensor:
        values = {**self.scores.effective(), **norm}
        with batch_norm_mode(self._body.module, training and self._own_statistics):
            if self.config.precision == "float32":
                return self._body(values, activation)
            with torch.autocast(activation.device.type, dtype=torch.bfloat16):
                features: torch.Tensor = self._body(values, activation)
            return features.float()

    def loss(
        self, outputs: torch.Tensor, targets: torch.Tensor, features: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Task loss, plus the gate's and the sparsity regulariser where they are on.

        Args:
            outputs: of :meth:`forward`.
            targets: labels ``[batch]``.
            features: the batch's router features, for the gate.
        """
        total: Any = self.task_loss(outputs, targets)
        if not isinstance(total, torch.Tensor) or total.ndim:
            task = type(self.bank.task).__name__
            raise PluginError(f"{task}.loss must give a tensor of one number, got {total!r}")
        if self.gate is not None and features is not None:
            total = total + self.config.gate_weight * self.gate.loss(features, self.group)
        if self.config.sparsity_weight:
            total = total + self.config.sparsity_weight * self.scores.mean_sigmoid()
        loss: torch.Tensor = total
        return loss

    def update(self) -> None:
        """One optimizer step on the gradients at hand; every few steps a new mask."""
        self.driver.step(min(1.0, self.steps_done / self.total_steps))
        self.steps_done += 1
        last = self.steps_done == self.total_steps
        if last or self.steps_done % self.config.binarise_every == 0:
            if self.watch is not None:
                self.watch.look(self, final=last)
            self._binarise(self.sparsity)

    def _binarise(self, sparsity: float) -> None:
        if not self._frozen:
            self.scores.binarise(sparsity)
            self.mask_sparsity = sparsity

    @torch.no_grad()
    def probe(
        self, activation: torch.Tensor, *, sparsity: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and outputs of the ticket as it stands; training is not disturbed.

        With ``sparsity`` they are those of the mask that the present scores would give at it.

        Batch norm uses the statistics of these samples: running ones lag behind a mask that
        changes every few steps, and what they get wrong would look like a collapse.
        """
        keep = self.scores.keep
        if sparsity is not None:
            self.scores.binarise(sparsity)
        try:
            norm = {name: tensor.clone() for name, tensor in self.norm.items()}
            features = self._run(activation, norm, training=True)
        finally:
            self.scores.keep = keep
        return features, self.head(features)

    def relax(self, relaxation: Relaxation, healthy: torch.Tensor | None = None) -> None:
        """Lower the target, and let the highest-scored pruned weights grow back at once.

        Args:
            relaxation: what to do.
            healthy: the last healthy mask ``[weights]``, for ``freeze``.
        """
        self.target = min(self.target, relaxation.target)
        for name, sparsity in relaxation.layers.items():
            self.scores.limit(name, sparsity)
        self._binarise(min(self.sparsity, self.target))
        if relaxation.freeze:
            if healthy is not None:
                self.scores.keep = healthy
            self.mask_sparsity = self.target
            self._frozen = True

    def step(
        self, activation: torch.Tensor, targets: torch.Tensor, features: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward, loss, backward, update; returns detached loss and outputs."""
        self.optimizer.zero_grad()
        outputs = self.forward(activation)
        loss = self.loss(outputs, targets, features)
        loss.backward()
        self.update()
        return loss.detach(), outputs.detach()

    @property
    def sparsity(self) -> float:
        """The schedule's sparsity now."""
        given: Any = self.schedule.sparsity(
            self.steps_done,
            self.total_steps,
            start=self.start_sparsity,
            target=self.target,
            ramp=self.config.ramp,
        )
        if not (isinstance(given, (int, float)) and 0 <= given <= 1):
            raise PluginError(
                f"schedule '{self.schedule.name}' must give a sparsity in 0..1, got {given!r} "
                f"after step {self.steps_done} of {self.total_steps}"
            )
        return float(given)

    def finish(
        self,
        features: torch.Tensor,
        info: TicketInfo,
        *,
        seed: int,
        siblings: Sequence[Mask] = (),
    ) -> Ticket:
        """The ticket, ready for the bank, behind those of lower :attr:`group`.

        A learner that was stopped early is brought to its sparsity target first.

        Args:
            features: router features of all its training data ``[samples, features]``.
            info: name, cluster and provenance; the rest is filled in.
            seed: of the feature mixture's initial assignment.
            siblings: masks learned together with this one that join the bank before it.

        Raises:
            DataError: if training has made a value that is not finite.
        """
        self.complete()
        tensors = {"scores": self.scores.scores, **self.norm, **self.head.state_dict()}
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise DataError(
                    f"ticket '{info.name}' diverged: '{name}' is not finite; lower the rates"
                )
        mixture = FeatureMixture.fit(
            features, components=self.config.mixture_components, seed=seed, held_out=True
        )
        mask = self.scores.mask()
        return Ticket(
            id=len(self.bank) + self.group,
            mask=mask,
            norm=self.norm,
            head=self.head.state_dict(),
            statistics=mixture.tensors(),
            info=self._complete(
                replace(
                    info,
                    parent=None if self.parent is None else self.parent.id,
                    samples=len(features),
                    sparsity_target=self.target,
                    similarity=self.bank.similarity_to(mask, siblings),
                )
            ),
        )

    def _complete(self, info: TicketInfo) -> TicketInfo:
        if self.watch is None:
            return info
        return replace(
            info,
            relaxations=len(self.watch.relaxations),
            provenance={**info.provenance, "collapse": self.watch.facts()},
        )


def joint_parameter_groups(learners: Sequence[TicketLearner]) -> list[dict[str, Any]]:
    """Parameter groups of tickets that are learned together: all scores, all norms and so on.

    So there are as many groups as for one ticket. What tickets share (the gate) comes once.
    """
    groups = learners[0].parameter_groups()
    for learner in learners[1:]:
        for group, more in zip(groups, learner.parameter_groups(), strict=True):
            known = {id(p) for p in group["params"]}
            group["params"] += [p for p in more["params"] if id(p) not in known]
    return groups


def drive_together(learners: Sequence[TicketLearner], optimizer: torch.optim.Optimizer) -> None:
    """Let one optimizer, made of :func:`joint_parameter_groups`, update all these tickets."""
    driver = DecayingOptimizer(optimizer)
    for learner in learners:
        learner.driver = driver


@contextmanager
def batch_norm_mode(
    module: nn.Module, training: bool = True, *, momentum: float | None = None
) -> Iterator[None]:
    """Batch norm reads its mode off the module, so it is set for the call and put back.

    With ``momentum`` running statistics move by that share instead of the layer's own.

    Nothing else changes its mode: dropout would draw from the global random state, and the same
    seed would not give the same ticket.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.training = training
        if momentum is not None:
            norm.momentum = momentum
    try:
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.training, norm.momentum = False, own
