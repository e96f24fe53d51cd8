"""Routers that look at what tickets make of an input before they decide."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch

from rtl_continual.routing._router import Router, Routing

__all__ = ["OutputRouter", "OutputsOf"]

OutputsOf = Callable[[int, torch.Tensor], torch.Tensor]
"""``outputs_of(ticket_id, rows)``: that ticket's outputs ``[rows, outputs]`` on some of a batch."""


class OutputRouter(Router):
    """A router that may ask for outputs; a bank calls :meth:`route_by_outputs` in place of `route`.

    Each ticket that is asked for costs one pass through the body. :meth:`route` must answer too,
    from features alone: that is what there is outside a bank.
    """

    @abstractmethod
    def route_by_outputs(
        self, features: torch.Tensor, outputs_of: OutputsOf, *, budget: int | None = None
    ) -> Routing:
        """Choose tickets.

        Args:
            features: router features ``[batch, features]``.
            outputs_of: runs one ticket on rows ``int64 [rows]`` of the batch.
            budget: use at most so many tickets per input; ``None`` leaves it to the router.
        """
