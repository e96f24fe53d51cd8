"""What a strategy is made of: its bank, router, options and optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from pydantic import BaseModel

from rtl_continual.backbones import Backbone
from rtl_continual.errors import RTLError
from rtl_continual.routing import (
    FeatureMixture,
    FlatRouter,
    FlatRouterConfig,
    Router,
    build_router,
)
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank
from rtl_continual.training import TicketConfig, TicketLearner

__all__ = ["drive", "give_router", "idle_groups", "make_bank", "make_config", "quiet_evaluator"]


class _GivenLoss(Classification):
    """Classification with the user's own criterion."""

    def __init__(self, num_outputs: int, criterion: Callable[..., torch.Tensor]) -> None:
        super().__init__(num_outputs)
        self._criterion = criterion

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self._criterion(outputs, targets)


def make_bank(
    backbone: Backbone | None,
    num_classes: int | None,
    bank: TicketBank | None,
    criterion: Callable[..., torch.Tensor] | None,
    device: torch.device,
) -> TicketBank:
    """The bank given, or an empty one over the backbone given.

    Raises:
        RTLError: if the arguments do not fit together.
    """
    if bank is not None:
        if backbone is not None or num_classes is not None or criterion is not None:
            raise RTLError(
                "a bank has its own backbone, classes and criterion; give the bank alone"
            )
        if bank.backbone.mean.device.type != device.type:
            raise RTLError(
                f"the bank is on {bank.backbone.mean.device} and the strategy on {device}; "
                "make them the same"
            )
        return bank
    if backbone is None or num_classes is None:
        raise RTLError("give a backbone with num_classes, or a bank")
    if num_classes < 1:
        raise RTLError(f"num_classes must be at least 1, got {num_classes}")
    task = Classification(num_classes) if criterion is None else _GivenLoss(num_classes, criterion)
    return TicketBank(backbone.to(device), task)


def give_router(bank: TicketBank, router: Router | None, config: BaseModel | None) -> None:
    """Set the bank's router: the one given, one by its options, its own, or a flat one.

    Raises:
        RTLError: if both are given.
    """
    if router is not None and config is not None:
        raise RTLError("give a router or router_config, not both")
    if router is None and config is None and bank.router is not None:
        return
    chosen = router if router is not None else build_router(config or FlatRouterConfig())
    if chosen.num_tickets != len(bank):
        chosen.fit([FeatureMixture(ticket.statistics) for ticket in bank])
    bank.router = chosen


def make_config(config: TicketConfig, batch_size: int | None, epochs: int | None) -> TicketConfig:
    """The options with the strategy's own batch size and epochs in them.

    Raises:
        RTLError: if one of these is out of range.
    """
    if batch_size is not None and batch_size < 2:
        raise RTLError(f"train_mb_size must be at least 2 for batch norm, got {batch_size}")
    if epochs is not None and epochs < 1:
        raise RTLError(f"train_epochs must be at least 1, got {epochs}")
    given = {"batch_size": batch_size, "epochs": epochs}
    return config.model_copy(update={k: v for k, v in given.items() if v is not None})


def idle_groups(
    bank: TicketBank, config: TicketConfig, device: torch.device
) -> list[dict[str, Any]]:
    """Groups over nothing, of a learner's number and rates: a scheduler made early will fit."""
    gate = isinstance(bank.router, FlatRouter) and config.gate_weight > 0
    return [
        {"params": [torch.zeros(1, device=device, requires_grad=True)], "lr": rate}
        for rate in TicketLearner.rates(config, gate=gate)
    ]


def drive(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """Let an optimizer object update these parameters and no others, from a fresh state."""
    optimizer.state.clear()
    for group, new in zip(optimizer.param_groups, groups, strict=True):
        group.update(new)


def quiet_evaluator() -> EvaluationPlugin:
    """An evaluator that measures nothing, and does not warn that nobody listens."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        return EvaluationPlugin()
