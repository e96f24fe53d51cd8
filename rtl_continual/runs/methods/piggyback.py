"""Piggyback: a learned binary mask per domain over frozen weights, the domain given."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from rtl_continual.errors import RTLError
from rtl_continual.runs._method import Answers, Method, MethodConfig, RunContext
from rtl_continual.runs.methods._adapted import Recipe, learn_adapted
from rtl_continual.runs.methods._tickets import answer, domain_counts, serving_parameters
from rtl_continual.streams import ImageSet
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank, TicketInfo

__all__ = ["PiggybackConfig", "PiggybackMethod"]


class PiggybackConfig(MethodConfig):
    """Options of Piggyback."""

    mask_lr: float = Field(1e-3, gt=0, description="Adam's rate for the real-valued masks")
    mask_start: float = Field(0.01, description="the real-valued masks' first value")
    threshold: float = Field(0.005, description="weights stay where the mask's value is larger")
    head_lr: float = Field(0.01, gt=0, description="Adam's rate for the head")
    norm_lr: float | None = Field(
        0.01, gt=0, description="Adam's rate for norm layers of each domain's own; none shares them"
    )


class PiggybackMethod(Method[PiggybackConfig]):
    """A threshold on real-valued masks that are learned straight-through; no budget, no router.

    Mallya et al. (2018), "Piggyback: Adapting a Single Network to Multiple Tasks by Learning to
    Mask Weights", with the paper's first value and threshold. At test time the domain is given, and
    the mask answers whose experience held most of that domain's training images.
    """

    name: ClassVar[str] = "piggyback"
    summary: ClassVar[str] = "a learned mask per domain, the domain known at test time (Piggyback)"
    config_class: ClassVar[type[PiggybackConfig]] = PiggybackConfig
    needs_domain: ClassVar[bool] = True

    def __init__(self, context: RunContext, config: PiggybackConfig) -> None:
        super().__init__(context, config)
        self.bank = TicketBank(context.make_backbone(), Classification(len(context.stream.classes)))

    def learn(self, index: int) -> None:
        experience = self.context.stream.experiences[index]
        tickets = self.context.sections["tickets"]
        recipe = Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            head_lr=self.config.head_lr,
            norm_lr=self.config.norm_lr,
            mask_lr=self.config.mask_lr,
            mask_start=self.config.mask_start,
            threshold=self.config.threshold,
            shift=tickets.shift,
            flip=tickets.flip,
            cache_bytes=tickets.cache_bytes,
        )
        counts = domain_counts(experience.train, self.context.stream.domains)
        info = TicketInfo(name=experience.name, cluster=experience.name, domain_counts=counts)
        seed, advance = self.context.seed, self.context.advance
        self.bank.append(
            learn_adapted(self.bank, experience.train, recipe, info, seed=seed, advance=advance)
        )

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        if domain is None:
            raise RTLError("piggyback has a mask per domain: it cannot answer without one")
        if not len(self.bank):
            raise RTLError("piggyback has learned nothing yet; learn an experience first")
        name = self.context.stream.domains[domain]
        counts = [ticket.info.domain_counts.get(name, 0) for ticket in self.bank]
        best = int(np.argmax(counts)) if max(counts) else len(counts) - 1
        return Answers(labels=answer(self.bank, images, ticket_id=best).labels)

    def parameters(self) -> dict[str, float]:
        return serving_parameters(self.bank, self.context.stream.learned_domains)
