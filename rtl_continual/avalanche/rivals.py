"""More of Avalanche's own strategies as methods of a run: DER++ and LwF."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from avalanche.benchmarks import DatasetExperience
from avalanche.benchmarks.utils import DataAttribute
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import LwFPlugin
from avalanche.training.supervised import DER
from avalanche.training.templates import SupervisedTemplate
from pydantic import Field
from torch.nn import functional as F

from rtl_continual.avalanche._benchmark import DomainDataset
from rtl_continual.avalanche._schedule import CosineRate, EpochReport
from rtl_continual.avalanche._setup import quiet_evaluator
from rtl_continual.avalanche.baselines import _DenseMethod
from rtl_continual.runs import DenseConfig, DenseModel, dense_optimizer

__all__ = ["DERConfig", "DERMethod", "LwFConfig", "LwFMethod"]


class DERConfig(DenseConfig):
    """Options of dark experience replay."""

    memory: int = Field(200, ge=1, description="images kept, with their logits")
    alpha: float = Field(0.1, ge=0, description="weight of the old logits' squared error")
    beta: float = Field(0.5, ge=0, description="weight of the old labels' loss; 0 is plain DER")


class LwFConfig(DenseConfig):
    """Options of learning without forgetting."""

    alpha: float = Field(1.0, ge=0, description="weight of distillation; 0 is naive")
    temperature: float = Field(2.0, gt=0, description="of both networks' outputs")


class _DER(DER):
    """Avalanche's, with the criterion it is given.

    Avalanche's takes plain cross-entropy as soon as it has a memory; the difference is added.
    """

    def _before_backward(self, **kwargs: Any) -> None:
        if self.replay_loader is not None and self._criterion is not F.cross_entropy:
            old = self.batch_size_mem
            for share, part in ((1.0, slice(old, None)), (self.beta, slice(old))):
                outputs, targets = self.mb_output[part], self.mb_y[part]
                more = self._criterion(outputs, targets) - F.cross_entropy(outputs, targets)
                self.loss += share * more
        super()._before_backward(**kwargs)


class DERMethod(_DenseMethod[DERConfig]):
    """Replay of images together with the logits they had (Buzzega et al., 2020; DER++).

    Avalanche's variant: logits are taken once, after an experience.
    """

    name: ClassVar[str] = "der"
    summary: ClassVar[str] = "one dense model, replay of images and their logits (DER++)"
    config_class = DERConfig

    def _strategy(self) -> SupervisedTemplate:
        model = DenseModel.configured(
            self.backbone, self.num_classes, self.context.seed, self.config
        )
        # DER's memory unpacks a task label with every image.
        self._experiences = [_with_task_label(e.train) for e in self.context.stream.experiences]
        return _DER(
            model=model,
            optimizer=dense_optimizer(model, self.config),
            criterion=F.cross_entropy,
            mem_size=self.config.memory,
            batch_size_mem=min(self.batch_size, self.config.memory),
            alpha=self.config.alpha,
            beta=self.config.beta,
            train_mb_size=self.batch_size,
            train_epochs=self.epochs,
            device=self.device,
            plugins=[CosineRate(), EpochReport(self.context.advance)],
            evaluator=quiet_evaluator(),
        )

    def details(self) -> dict[str, Any]:
        """The memory it needs beside its parameters."""
        image, _ = self.context.stream.experiences[0].train.batch([0])
        each = image.nbytes + 4 * self.num_classes
        return {"memory": {"images": self.config.memory, "bytes": self.config.memory * each}}


class _LwF(LwFPlugin):
    """Avalanche's, without the task labels that it asks a data set for.

    The old network answers as it did when it was done, by its running statistics; Avalanche's
    answers by those of the new batch. It keeps seeing what the new one sees: both count their
    calls, and draw their shifts from the count.
    """

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        lwf = self.lwf
        lwf.expcount += 1
        lwf.prev_model = copy.deepcopy(strategy.model)
        lwf.prev_model.network.eval()
        classes = {int(target) for target in strategy.experience.dataset.targets}
        lwf.prev_classes_by_task[0] = lwf.prev_classes_by_task[0] | classes


class LwFMethod(_DenseMethod[LwFConfig]):
    """Fine-tuning that keeps the old network's answers on new images (Li and Hoiem, 2016)."""

    name: ClassVar[str] = "lwf"
    summary: ClassVar[str] = "one dense model, distilled from the one before"
    config_class = LwFConfig

    def _plugins(self) -> list[SupervisedPlugin]:
        return [_LwF(self.config.alpha, self.config.temperature)]


def _with_task_label(images: Any) -> DatasetExperience[Any]:
    columns = [
        DataAttribute(images.targets.tolist(), "targets"),
        DataAttribute([0] * len(images), "targets_task_labels", use_in_getitem=True),
    ]
    return DatasetExperience(dataset=DomainDataset([images], data_attributes=columns))
