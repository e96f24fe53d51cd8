"""The model that a routed strategy shows to Avalanche."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rtl_continual.avalanche._batches import channels_last
from rtl_continual.routing import FeatureMixture
from rtl_continual.tickets import Prediction, Ticket, TicketBank, TicketInfo
from rtl_continual.training import TicketLearner

__all__ = ["RoutedModel"]


class RoutedModel(nn.Module):
    """A ticket bank as an ``nn.Module``: in evaluation mode it routes, in training mode it learns.

    In evaluation mode the outputs are those of ``bank.predict``: from the images alone, with the
    tickets that the router picks. Where there is no ticket yet, or the router abstains, all
    classes get the same output (zero). In training mode, while tickets are being learned, the
    outputs are those of :attr:`learner`, whose batch it is.

    Its parameters are the frozen backbone's and those of the tickets that are being learned; its
    state dict holds both, so a plugin can keep a copy and put it back. Committed tickets are in
    :attr:`bank` and not in the state dict.

    Args:
        bank: the tickets, and the backbone they share.

    Example:
        >>> from rtl_continual.backbones import build_backbone
        >>> from rtl_continual.tasks import Classification
        >>> bank = TicketBank(build_backbone("glyphnet", weights="random:0"), Classification(10))
        >>> RoutedModel(bank).eval()(torch.zeros(1, 3, 32, 32)).tolist()
        [[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self, bank: TicketBank) -> None:
        super().__init__()
        self.bank = bank
        self.backbone = bank.backbone
        self.tickets = nn.ModuleList()
        self.learner: TicketLearner | None = None
        self.prediction: Prediction | None = None
        self.features: torch.Tensor | None = None
        self._provisional: TicketBank | None = None

    @property
    def bank_in_use(self) -> TicketBank:
        """The bank that evaluation asks.

        During an evaluation in the middle of a ticket's training it has this ticket too.
        """
        return self.bank if self._provisional is None else self._provisional

    def begin(self, learners: Sequence[TicketLearner]) -> None:
        """Show the parameters of tickets that are about to be learned."""
        self.learner = learners[0]
        self.tickets = nn.ModuleList(_parameters_of(learner) for learner in learners)

    def end(self) -> None:
        """Forget the learners; their tickets have been committed, or given up."""
        self.learner = None
        self.tickets = nn.ModuleList()
        self.features = None

    def show_unfinished(
        self,
        learners: Sequence[TicketLearner],
        mixtures: Sequence[FeatureMixture],
        infos: Sequence[TicketInfo],
    ) -> None:
        """Evaluate the tickets that are being learned, as they stand, as if they were committed.

        Args:
            learners: the tickets.
            mixtures: of their router features.
            infos: what is known about them.
        """
        self._provisional = _twin(self.bank)
        for learner, mixture, info in zip(learners, mixtures, infos, strict=True):
            self._provisional.append(
                Ticket(
                    id=len(self._provisional),
                    mask=learner.scores.mask(),
                    norm=learner.norm,
                    head=learner.head.state_dict(),
                    statistics=mixture.tensors(),
                    info=info,
                )
            )
            self._provisional.router.add(mixture)  # type: ignore[union-attr]

    def hide_unfinished(self) -> None:
        """Back to the committed tickets."""
        self._provisional = None

    def predict(self, images: torch.Tensor) -> Prediction:
        """Route and answer; unlike :meth:`TicketBank.predict` an empty bank answers too.

        Args:
            images: ``[batch, channels, height, width]``, ``uint8`` or floating point in 0..1.

        Raises:
            DataError: if the images are not what the backbone takes.
        """
        bank = self.bank_in_use
        if len(bank):
            return bank.predict(images, batch_size=max(1, len(images)))
        bank.backbone.check_images(images)
        nobody = torch.full((len(images),), -1)
        outputs = torch.zeros(len(images), bank.task.num_outputs)
        return Prediction(outputs, nobody, torch.zeros(len(images)), nobody)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Outputs ``[batch, classes]``; see the class.

        Args:
            images: ``[batch, channels, height, width]``, ``uint8`` or floating point in 0..1.
        """
        if self.training and self.learner is not None:
            with torch.no_grad():
                activation, self.features = self.bank.run_trunk(images)
            return self.learner.forward(channels_last(activation))
        self.prediction = self.predict(images)
        abstained = (self.prediction.ticket_ids < 0)[:, None]
        return torch.where(abstained, 0.0, self.prediction.outputs).to(images.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> RoutedModel:
        """A model over the same backbone and tickets that does not see later ones.

        Both are immutable, so they are shared.
        """
        return RoutedModel(_twin(self.bank)).train(self.training)


def _twin(bank: TicketBank) -> TicketBank:
    """A bank with the same tickets and a copy of the router, free to grow apart."""
    twin = TicketBank(bank.backbone, bank.task, copy.deepcopy(bank.router))
    for ticket in bank:
        twin.append(ticket)
    return twin


def _parameters_of(learner: TicketLearner) -> nn.Module:
    """The learner's own tensors, as a module's parameters and buffers; nothing is copied."""
    module = nn.Module()
    module.scores = learner.scores
    module.head = learner.head
    # A module's own names may not contain dots.
    for name, tensor in learner.norm.items():
        key = f"norm/{name.replace('.', '/')}"
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(key, tensor)
        else:
            module.register_buffer(key, tensor)
    if learner.gate is not None:
        for index, tensor in enumerate(learner.gate.parameters()):
            module.register_buffer(f"gate/{index}", tensor)
    return module
