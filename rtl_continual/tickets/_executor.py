"""How a batch whose samples belong to different tickets goes through the body."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict

from rtl_continual.registry import ClassRegistry, NamedSection

__all__ = [
    "BUILT_IN_EXECUTORS",
    "Executor",
    "ExecutorSection",
    "GroupedExecutor",
    "GroupedExecutorConfig",
    "SeparateExecutor",
    "SeparateExecutorConfig",
    "build_executor",
    "executor_config_class",
    "executor_names",
    "take_rows",
]


class RunsTickets(Protocol):
    """The part of a bank that an executor needs."""

    def run_ticket(self, ticket_id: int, activation: torch.Tensor) -> torch.Tensor: ...


class Executor(ABC):
    """Runs trunk activations through the body, each sample with its ticket's weights.

    A sample's outputs depend on it and its ticket alone, but for the rounding of a kernel that
    treats batches of different sizes differently. An executor is built from its options alone,
    ``ExecutorClass(config)``, and may be used by several threads at a time.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[BaseModel]]
    config: Any

    @abstractmethod
    def execute(
        self, bank: RunsTickets, activation: torch.Tensor, ticket_ids: torch.Tensor
    ) -> torch.Tensor:
        """Outputs ``[batch, outputs]``, in the order of the samples.

        Args:
            bank: ``bank.run_ticket(ticket_id, activation)`` runs one ticket;
                ``bank.effective_parameters(ticket_id)`` are its weights.
            activation: of the trunk, ``[batch, ...]``, at least one sample.
            ticket_ids: ``int64 [batch]``, on the CPU; each is a ticket of the bank.
        """


class GroupedExecutorConfig(BaseModel):
    """Options of the executor ``grouped``: none of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["grouped"] = "grouped"


class GroupedExecutor(Executor):
    """Sorts samples by ticket once; each ticket runs its own samples as one batch."""

    name: ClassVar[str] = "grouped"
    config_class: ClassVar[type[BaseModel]] = GroupedExecutorConfig

    def __init__(self, config: GroupedExecutorConfig | None = None) -> None:
        self.config = config or GroupedExecutorConfig()

    def execute(
        self, bank: RunsTickets, activation: torch.Tensor, ticket_ids: torch.Tensor
    ) -> torch.Tensor:
        if len(ticket_ids) == 1:
            return bank.run_ticket(int(ticket_ids), activation)
        tickets, counts = torch.unique(ticket_ids, return_counts=True)
        if len(tickets) == 1:
            return bank.run_ticket(int(tickets[0]), activation)
        order = torch.argsort(ticket_ids, stable=True).to(activation.device)
        parts = take_rows(activation, order).split(counts.tolist())
        grouped = torch.cat(
            [bank.run_ticket(i, part) for i, part in zip(tickets.tolist(), parts, strict=True)]
        )
        outputs = torch.empty_like(grouped)
        outputs[order] = grouped
        return outputs


class SeparateExecutorConfig(BaseModel):
    """Options of the executor ``separate``: none of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["separate"] = "separate"


class SeparateExecutor(Executor):
    """Each sample by itself: the body's part of an answer has the same bits in any batch.

    Much slower than ``grouped``. For audits that compare single answers bit by bit.
    """

    name: ClassVar[str] = "separate"
    config_class: ClassVar[type[BaseModel]] = SeparateExecutorConfig

    def __init__(self, config: SeparateExecutorConfig | None = None) -> None:
        self.config = config or SeparateExecutorConfig()

    def execute(
        self, bank: RunsTickets, activation: torch.Tensor, ticket_ids: torch.Tensor
    ) -> torch.Tensor:
        parts = zip(ticket_ids.tolist(), activation.split(1), strict=True)
        return torch.cat([bank.run_ticket(ticket, part) for ticket, part in parts])


def take_rows(activation: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``activation[rows]`` in the same memory order; indexing alone loses channels last."""
    if activation.ndim != 4 or not activation.is_contiguous(memory_format=torch.channels_last):
        return activation[rows]
    return activation.permute(0, 2, 3, 1)[rows].permute(0, 3, 1, 2)


BUILT_IN_EXECUTORS: dict[str, type[Executor]] = {
    executor.name: executor for executor in (GroupedExecutor, SeparateExecutor)
}
"""What the built-in plugin registers."""

_EXECUTORS: ClassRegistry[Executor] = ClassRegistry("executor", Executor)

ExecutorSection = Annotated[BaseModel, NamedSection(_EXECUTORS)]
"""The type of a field that holds an executor's options."""


def executor_names() -> tuple[str, ...]:
    """The names of all executors, sorted."""
    return tuple(_EXECUTORS)


def executor_config_class(name: str) -> type[BaseModel]:
    """The options of the executor called ``name``.

    Raises:
        RTLError: if there is no such executor.
    """
    return _EXECUTORS.config_class(name)


def build_executor(config: BaseModel) -> Executor:
    """An executor from an instance of its own config class.

    Raises:
        RTLError: if no executor has such a config.

    Example:
        >>> build_executor(SeparateExecutorConfig()).name
        'separate'
    """
    return _EXECUTORS.build(config)
