"""The contract of every method that a run compares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rtl_continual.backbones import Backbone
from rtl_continual.streams import ImageSet, Stream

__all__ = ["Answers", "Method", "MethodConfig", "RunContext"]


class MethodConfig(BaseModel):
    """What every method's section has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int | None = Field(
        None, ge=1, description="passes over the data; default: that of the tickets section"
    )
    batch_size: int | None = Field(
        None, ge=2, description="images per step; default: that of the tickets section"
    )


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


@dataclass(frozen=True)
class RunContext:
    """What a method works with.

    Args:
        stream: the data.
        make_backbone: builds a fresh copy of the frozen backbone.
        epochs: passes over each image that every method makes.
        batch_size: images per step.
        seed: of everything random.
        sections: the scenario's other sections by name (``tickets``, ``router``, ``growth``).
        emit: writes one event to ``metrics.jsonl``: ``emit("ticket_added", ticket=3)``.
        advance: tells the progress display what is going on: ``advance("epoch 3 of 15")``.
    """

    stream: Stream
    make_backbone: Callable[[], Backbone]
    epochs: int
    batch_size: int
    seed: int
    sections: dict[str, Any]
    emit: Callable[..., None]
    advance: Callable[[str], None]


@dataclass(frozen=True)
class Answers:
    """Predictions for one test set.

    Args:
        labels: ``int64 [n]``, -1 for "unknown".
        ticket_ids: ``int64 [n]`` where the method routes, -1 where its router abstained.
        confidence: the router's ``[n]``, where the method routes.
    """

    labels: np.ndarray
    ticket_ids: np.ndarray | None = None
    confidence: np.ndarray | None = None


class Method(ABC, Generic[ConfigT]):
    """One continual-learning method, or a reference, under the same protocol as all others.

    The runner calls :meth:`learn` for each experience in order, and after each one
    :meth:`predict` for every domain's test set. An ``offline`` method sees all experiences at
    once: :meth:`learn_all` is called instead, and its rows of the accuracy matrix are equal.

    Args:
        context: data, backbone and seeds.
        config: the method's own section.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    config_class: ClassVar[type[MethodConfig]] = MethodConfig
    protocol: ClassVar[Literal["continual", "offline"]] = "continual"
    needs_domain: ClassVar[bool] = False

    def __init__(self, context: RunContext, config: ConfigT) -> None:
        self.context = context
        self.config = config
        # Time that sharing with other methods has saved; it counts as the method's own.
        self.borrowed_seconds = {"train": 0.0, "eval": 0.0}

    @property
    def epochs(self) -> int:
        """Passes over each image."""
        return self.config.epochs or self.context.epochs

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return self.config.batch_size or self.context.batch_size

    def learn(self, index: int) -> None:
        """Learn from experience ``index`` of the stream."""
        raise NotImplementedError

    def learn_all(self) -> None:
        """Learn from all experiences at once (``protocol = "offline"``)."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        """Answer for a test set.

        Args:
            images: the test set; its targets and domains must not be read.
            domain: the test set's domain, given only if ``needs_domain`` is set.
        """

    @abstractmethod
    def parameters(self) -> dict[str, float]:
        """What serving takes, as ``docs/results-format.md`` defines it.

        Keys: ``backbone``, ``effective_union``, ``separate_models``, ``ratio_vs_separate``,
        ``bytes_on_disk`` and ``trainable``.
        """

    def inference_ratio(self) -> float:
        """Work for one image as a ratio to the bare backbone's, in multiply-adds; heads left out.

        Weights that a mask drops count as work: nothing here skips them.
        """
        return 1.0

    def finish_evaluation(self, tests: dict[str, ImageSet]) -> None:
        """Look at the test sets once more, right before :meth:`details`, after all learning.

        A method that reports something about them of its own (how well its router does, what an
        oracle router would reach) works it out here; others leave it.

        Args:
            tests: by domain name, in the stream's order. Targets and domains may be read here.
        """

    def details(self) -> dict[str, Any]:
        """What the method adds to its entry in ``results.json``, beyond what all have."""
        return {}

    def save(self, folder: str) -> None:
        """Write what can be served (a bank) into ``folder``; by default nothing."""
