"""How one method is run and judged: learn, evaluate after each experience, measure."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from rtl_continual.backbones import Backbone
from rtl_continual.runs._frequency import class_groups, group_names
from rtl_continual.runs._measures import home_experiences, method_measures
from rtl_continual.runs._method import Method
from rtl_continual.streams import ImageSet, Stream
from rtl_continual.tasks import accuracy, balanced_accuracy, confusion_matrix

__all__ = ["Protocol", "backbone_facts", "stream_facts"]


class Protocol:
    """The same for every method.

    Args:
        method: fresh.
        stream: what it learns from.
        sets: what it is judged on, one set per domain.
        emit: writes an event.
        advance: tells what is going on.
        device: to wait for before time is taken.
    """

    def __init__(
        self,
        method: Method[Any],
        stream: Stream,
        sets: dict[str, ImageSet],
        emit: Callable[..., None],
        advance: Callable[[str], None],
        device: torch.device,
    ) -> None:
        self.method = method
        self.stream = stream
        self.sets = sets
        self.emit = emit
        self.advance = advance
        self.device = device
        self.seconds = {"train": 0.0, "eval": 0.0}

    def run(self) -> dict[str, Any]:
        """The method's entry for ``results.json``, but for its name."""
        method, stages = self.method, len(self.stream.experiences)
        if method.protocol == "offline":
            self.advance("learning from all experiences")
            self._timed("train", method.learn_all)
            confusions = [self._evaluate(stages - 1)] * stages
        else:
            confusions = []
            for index, experience in enumerate(self.stream.experiences):
                self.advance(f"learning {experience.name} ({index + 1} of {stages})")
                spent = self._timed("train", partial(method.learn, index))
                self.emit("experience_learned", experience=index, seconds=round(spent, 3))
                confusions.append(self._evaluate(index))
        self.advance("finishing")
        self._timed("eval", lambda: method.finish_evaluation(self.sets))
        homes = home_experiences(self.stream)
        return {
            **method_measures(confusions, self.stream.domains, homes, class_groups(self.stream)),
            "protocol": method.protocol,
            "needs_domain": method.needs_domain,
            "epochs": method.epochs,
            "batch_size": method.batch_size,
            "parameters": method.parameters(),
            "seconds": {
                kind: round(spent + method.borrowed_seconds[kind], 3)
                for kind, spent in self.seconds.items()
            },
            "inference_ratio": method.inference_ratio(),
            **method.details(),
        }

    def _evaluate(self, stage: int) -> list[np.ndarray]:
        confusions = []
        for index, (name, images) in enumerate(self.sets.items()):
            self.advance(f"evaluating on {name}")
            domain = index if self.method.needs_domain else None
            start = time.perf_counter()
            labels = np.asarray(self.method.predict(images, domain=domain).labels)
            self.seconds["eval"] += time.perf_counter() - start
            if labels.shape != (len(images),):
                raise RuntimeError(f"{len(images)} images, but labels of shape {labels.shape}")
            confusions.append(confusion_matrix(images.targets, labels, len(self.stream.classes)))
        names = list(self.sets)
        self.emit(
            "evaluated",
            experience=stage,
            accuracy={n: accuracy(c) for n, c in zip(names, confusions, strict=True)},
            balanced_accuracy={
                n: balanced_accuracy(c) for n, c in zip(names, confusions, strict=True)
            },
        )
        return confusions

    def _timed(self, kind: str, work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - start
        self.seconds[kind] += spent
        return spent


def stream_facts(stream: Stream, sets: dict[str, ImageSet]) -> dict[str, Any]:
    """What ``results.json`` says of the data."""

    def counts(part: ImageSet) -> dict[str, int]:
        numbers = np.bincount(part.domains, minlength=len(stream.domains))
        return {n: int(c) for n, c in zip(stream.domains, numbers, strict=True) if c}

    groups = class_groups(stream)
    return {
        "name": stream.name,
        "domains": stream.domains,
        "classes": stream.classes,
        "fingerprint": stream.fingerprint,
        "source": stream.source,
        "experiences": [
            {
                "name": e.name,
                "train": len(e.train),
                "validation": len(e.validation),
                "train_by_domain": counts(e.train),
            }
            for e in stream.experiences
        ],
        "evaluation": {name: len(part) for name, part in sets.items()},
        **({} if groups is None else {"class_groups": group_names(stream, groups)}),
    }


def backbone_facts(backbone: Backbone, identity: str) -> dict[str, Any]:
    """What ``results.json`` says of the backbone."""
    return {
        "name": backbone.name,
        "weights": backbone.weights,
        "split": backbone.split,
        "taps": backbone.taps,
        "readout": backbone.readout,
        "end": backbone.end,
        "feature_dim": backbone.feature_dim,
        "router_feature_dim": backbone.router_feature_dim,
        "identity": identity,
    }
