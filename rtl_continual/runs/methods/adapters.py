"""Norm-and-head adapters per domain, chosen by the nearest k-means centroid: S-Prompts' recipe."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from rtl_continual.backbones import backbone_flops
from rtl_continual.errors import RTLError
from rtl_continual.runs._method import Answers, Method, MethodConfig, RunContext
from rtl_continual.runs.methods._adapted import Recipe, learn_adapted
from rtl_continual.runs.methods._dense import count_floats
from rtl_continual.runs.methods._frozen import frozen_features
from rtl_continual.runs.methods._tickets import domain_counts
from rtl_continual.streams import ImageSet
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank, TicketInfo

__all__ = ["AdaptersConfig", "AdaptersMethod"]


class AdaptersConfig(MethodConfig):
    """Options of adapters with k-means routing."""

    centroids: int = Field(5, ge=1, description="k-means centroids per experience")
    norm_lr: float = Field(0.01, gt=0, description="Adam's rate for the norm affine parameters")
    head_lr: float = Field(0.01, gt=0, description="Adam's rate for the head")


class AdaptersMethod(Method[AdaptersConfig]):
    """One small set of trained parts per experience on a frozen backbone, chosen by k-means.

    Wang et al. (2022), "S-Prompts Learning with Pre-trained Transformers": prompts and head per
    domain, and at test time the domain whose k-means centroid of frozen final features is nearest.
    A convolution network takes no prompts; the body's norm layers are trained in their place. As
    there, an image crosses the backbone once to find its domain and once more to be answered.
    """

    name: ClassVar[str] = "adapters"
    summary: ClassVar[str] = "frozen backbone, norm and head per domain, k-means routing"
    config_class: ClassVar[type[AdaptersConfig]] = AdaptersConfig

    def __init__(self, context: RunContext, config: AdaptersConfig) -> None:
        super().__init__(context, config)
        self.bank = TicketBank(context.make_backbone(), Classification(len(context.stream.classes)))
        self._centroids: list[np.ndarray] = []
        self._router: dict[str, Any] = {}

    def learn(self, index: int) -> None:
        experience = self.context.stream.experiences[index]
        tickets = self.context.sections["tickets"]
        recipe = Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            head_lr=self.config.head_lr,
            norm_lr=self.config.norm_lr,
            shift=tickets.shift,
            flip=tickets.flip,
            cache_bytes=tickets.cache_bytes,
        )
        counts = domain_counts(experience.train, self.context.stream.domains)
        self.bank.append(
            learn_adapted(
                self.bank,
                experience.train,
                recipe,
                TicketInfo(name=experience.name, cluster=experience.name, domain_counts=counts),
                seed=self.context.seed,
                advance=self.context.advance,
            )
        )
        found = frozen_features(self.bank.backbone, experience.train)
        self.borrowed_seconds["train"] += found.borrowed_seconds
        features = found.final.double().cpu().numpy()
        count = min(self.config.centroids, len(features))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct than centroids
            solver = KMeans(count, n_init=1, random_state=self.context.seed).fit(features)
        self._centroids.append(solver.cluster_centers_)

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        if not len(self.bank):
            raise RTLError("adapters has learned nothing yet; learn an experience first")
        ids = self._nearest(images)
        labels = []
        for first in range(0, len(images), 256):
            rows = range(first, min(first + 256, len(images)))
            batch, _ = images.batch(rows)
            labels.append(self.bank.predict(batch, ticket_ids=ids[rows.start : rows.stop]).labels)
        return Answers(labels=torch.cat(labels).numpy(), ticket_ids=ids.numpy())

    def _nearest(self, images: ImageSet) -> torch.Tensor:
        """Whose centroid is nearest ``[n]``."""
        found = frozen_features(self.bank.backbone, images)
        self.borrowed_seconds["eval"] += found.borrowed_seconds
        features = found.final.double().cpu().numpy()
        # |x - c|^2 without the part that all centroids share.
        near = [(c * c).sum(axis=1) - 2 * features @ c.T for c in self._centroids]
        return torch.from_numpy(np.stack([d.min(axis=1) for d in near]).argmin(axis=0))

    def finish_evaluation(self, tests: dict[str, ImageSet]) -> None:
        """How many images go to the parts that saw most of their domain."""
        seen = np.array([[t.info.domain_counts.get(d, 0) for d in tests] for t in self.bank])
        chosen = [self._nearest(images).numpy() for images in tests.values()]
        confusion = np.stack([np.bincount(ids, minlength=len(self.bank)) for ids in chosen])
        known = np.flatnonzero(seen.any(axis=0))
        hits = confusion[known, seen.argmax(axis=0)[known]].sum()
        flops = backbone_flops(self.bank.backbone)
        self._router = {
            "name": "k-means of final features",
            "accuracy": float(hits / confusion[known].sum()),
            "confusion": confusion.tolist(),
            "abstained": 0,
            "flops": flops["body"],
            "backbone_flops": flops["total"],
            "flops_share": flops["body"] / flops["total"],
        }

    def details(self) -> dict[str, Any]:
        """How well k-means finds the domain."""
        return {"router": self._router}

    def parameters(self) -> dict[str, float]:
        backbone = count_floats(self.bank.backbone.trunk, self.bank.backbone.body)
        counts = self.bank.parameter_counts()
        extra = counts["norm"] + counts["heads"] + sum(c.size for c in self._centroids)
        head = counts["heads"] // max(1, len(self.bank))
        separate = self.context.stream.learned_domains * (backbone + head)
        return {
            "backbone": backbone,
            "effective_union": backbone + extra,
            "separate_models": separate,
            "ratio_vs_separate": separate / (backbone + extra),
            "bytes_on_disk": 4 * (backbone + extra),
            "trainable": (counts["norm"] + counts["heads"]) // max(1, len(self.bank)),
        }

    def inference_ratio(self) -> float:
        flops = backbone_flops(self.bank.backbone)
        return 1 + flops["body"] / flops["total"]
