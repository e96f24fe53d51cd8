"""The document's baseline: one mask for all data."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rtl_continual.runs._method import Answers, Method, MethodConfig, RunContext
from rtl_continual.runs.methods._tickets import (
    answer,
    collapse_events,
    domain_counts,
    empty_bank,
    merged_passes,
    serving_parameters,
    ticket_options,
)
from rtl_continual.streams import ImageSet, concatenate
from rtl_continual.tickets import TicketInfo
from rtl_continual.training import commit_ticket, learn_ticket

__all__ = ["SingleTicketMethod"]


class SingleTicketMethod(Method[MethodConfig]):
    """One ticket trained on every experience's data together; no routing."""

    name: ClassVar[str] = "single_ticket"
    summary: ClassVar[str] = "one mask for all data, jointly trained"
    protocol = "offline"

    def __init__(self, context: RunContext, config: MethodConfig) -> None:
        super().__init__(context, config)
        self.bank = empty_bank(context)

    def learn_all(self) -> None:
        stream = self.context.stream
        data = concatenate([experience.train for experience in stream.experiences])
        info = TicketInfo(
            name="all", cluster="all", domain_counts=domain_counts(data, stream.domains)
        )
        ticket, learner = learn_ticket(
            self.bank,
            data,
            ticket_options(self.context, self.epochs, self.batch_size),
            info=info,
            seed=self.context.seed,
            on_epoch=lambda e: self.context.advance(
                f"epoch {e['epoch'] + 1} of {self.epochs}, loss {e['loss']:.3f}"
            ),
            on_collapse=collapse_events(self.context, {info.name: 0}),
        )
        commit_ticket(self.bank, ticket, learner)

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        answers = answer(self.bank, images, ticket_id=0)
        return Answers(labels=np.asarray(answers.labels))

    def parameters(self) -> dict[str, float]:
        return serving_parameters(self.bank, self.context.stream.learned_domains)

    def inference_ratio(self) -> float:
        return 1 + merged_passes(self.bank)
