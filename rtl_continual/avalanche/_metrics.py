"""What the evaluation of domains and routing needs beyond Avalanche's own metrics."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue

from rtl_continual.errors import RTLError
from rtl_continual.tasks import balanced_accuracy, confusion_matrix, recall_by_class

__all__ = ["BalancedAccuracy", "Recall", "RouterAccuracy", "TicketCount", "rtl_metrics"]


class _DomainMetric(PluginMetric[Any]):
    """Counts pairs of labels and predictions over the experiences of a domain.

    Batches are kept as tensors and read once per experience, so that a GPU is not made to wait
    in each iteration. Experiences of the same name are counted together.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._confusion: dict[str, np.ndarray] = {}
        self._stream = ""

    def reset(self) -> None:
        self._batches = []
        self._confusion = {}

    def result(self) -> dict[str, float]:
        """The value of each domain of the evaluation that runs, or ran last."""
        return {domain: self.value(confusion) for domain, confusion in self._confusion.items()}

    @abstractmethod
    def value(self, confusion: np.ndarray) -> float:
        """One domain's value, from ``[labels, labels + 1]`` counts."""

    def before_eval(self, strategy: Any) -> None:
        self.reset()

    def after_eval_iteration(self, strategy: Any) -> None:
        prediction = getattr(strategy, "mb_prediction", None)
        labels = strategy.mb_output.argmax(dim=1) if prediction is None else prediction.labels
        self._batches.append((strategy.mb_y, labels))

    def after_eval_exp(self, strategy: Any) -> list[MetricValue]:
        targets, labels = _columns(self._batches)
        self._batches = []
        experience = strategy.experience
        domain, self._stream = _domain(experience), experience.origin_stream.name
        known = self._confusion.get(domain, 0)
        classes = strategy.mb_output.shape[1]
        self._confusion[domain] = known + confusion_matrix(targets, labels, classes)
        return [
            MetricValue(self, f"{self._place}/{name}", value, strategy.clock.train_iterations)
            for name, value in self.values(domain).items()
        ]

    def values(self, domain: str) -> dict[str, float]:
        """What is reported of a domain, by the end of its name."""
        return {domain: self.value(self._confusion[domain])}

    def after_eval(self, strategy: Any) -> MetricValue | None:
        values = list(self.result().values())
        if not values:
            return None
        name = f"{self.name}Mean/eval_phase/{self._stream}_stream"
        return MetricValue(self, name, float(np.mean(values)), strategy.clock.train_iterations)

    @property
    def _place(self) -> str:
        return f"{self.name}/eval_phase/{self._stream}_stream"


class BalancedAccuracy(_DomainMetric):
    """Balanced accuracy of each domain, and their mean.

    Emits ``BalancedAccuracy/eval_phase/test_stream/<domain>`` after each experience and
    ``BalancedAccuracyMean/eval_phase/test_stream`` after the stream (``test`` stands for the
    stream's name). Works with every strategy that classifies. Inputs for which a router abstains
    count as wrong.

    Example:
        >>> BalancedAccuracy().result()
        {}
    """

    name = "BalancedAccuracy"

    def value(self, confusion: np.ndarray) -> float:
        return balanced_accuracy(confusion)


class Recall(_DomainMetric):
    """Recall of each domain: the mean over its classes, and on request each class's own.

    Emits ``Recall/eval_phase/test_stream/<domain>`` and
    ``RecallMean/eval_phase/test_stream``; by class also
    ``Recall/eval_phase/test_stream/<domain>/Class003``. Classes without samples are left out,
    which makes the mean over classes equal to balanced accuracy.

    Args:
        by_class: report each class too.

    Example:
        >>> Recall(by_class=True).result()
        {}
    """

    name = "Recall"

    def __init__(self, *, by_class: bool = False) -> None:
        super().__init__()
        self.by_class = by_class

    def value(self, confusion: np.ndarray) -> float:
        return float(np.nanmean(recall_by_class(confusion)))

    def values(self, domain: str) -> dict[str, float]:
        values = super().values(domain)
        if self.by_class:
            recalls = recall_by_class(self._confusion[domain])
            found = np.flatnonzero(np.isfinite(recalls)).tolist()
            values |= {f"{domain}/Class{label:03d}": float(recalls[label]) for label in found}
        return values


class RouterAccuracy(PluginMetric[Any]):
    """Fraction of inputs that went to a ticket trained on their domain.

    The metric alone reads the experience's ``.domain``, and compares it with the names under
    which tickets were trained; the strategy never sees it. Emits
    ``RouterAccuracy/eval_phase/test_stream/<domain>`` and
    ``RouterAccuracyMean/eval_phase/test_stream``. Experiences without a name, or of a domain that
    no ticket was trained on, are left out: no ticket would be right for them.

    Raises:
        RTLError: in the evaluation of a strategy that does not route.

    Example:
        >>> RouterAccuracy().result()
        {}
    """

    name = "RouterAccuracy"

    def __init__(self) -> None:
        super().__init__()
        self._ids: list[torch.Tensor] = []
        self._counts: dict[str, tuple[int, int]] = {}
        self._stream = ""

    def reset(self) -> None:
        self._ids = []
        self._counts = {}

    def result(self) -> dict[str, float]:
        """The value of each domain of the evaluation that runs, or ran last."""
        return {domain: right / total for domain, (right, total) in self._counts.items()}

    def before_eval(self, strategy: Any) -> None:
        self.reset()

    def after_eval_iteration(self, strategy: Any) -> None:
        prediction = getattr(strategy, "mb_prediction", None)
        if prediction is None:
            raise RTLError(
                f"RouterAccuracy measures strategies that route, not {type(strategy).__name__}"
            )
        self._ids.append(prediction.ticket_ids)

    def after_eval_exp(self, strategy: Any) -> MetricValue | None:
        ids = torch.cat(self._ids)
        self._ids = []
        experience = strategy.experience
        domain, self._stream = _domain(experience), experience.origin_stream.name
        tickets = strategy.model.bank_in_use
        own = [ticket.id for ticket in tickets if ticket.info.cluster == domain]
        if not own or not hasattr(experience, "domain"):
            return None
        right, total = self._counts.get(domain, (0, 0))
        right += int(torch.isin(ids, torch.tensor(own)).sum())
        self._counts[domain] = right, total + len(ids)
        name = f"{self.name}/eval_phase/{self._stream}_stream/{domain}"
        return MetricValue(self, name, self.result()[domain], strategy.clock.train_iterations)

    def after_eval(self, strategy: Any) -> MetricValue | None:
        values = list(self.result().values())
        if not values:
            return None
        name = f"{self.name}Mean/eval_phase/{self._stream}_stream"
        return MetricValue(self, name, float(np.mean(values)), strategy.clock.train_iterations)


class TicketCount(PluginMetric[int]):
    """How many tickets the bank has; emitted as ``TicketCount`` when one is added.

    Example:
        >>> TicketCount().result()
        0
    """

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def reset(self) -> None:
        self._count = 0

    def result(self) -> int:
        """The number of tickets when it was last emitted."""
        return self._count

    def after_ticket_added(self, strategy: Any) -> MetricValue:
        self._count = len(strategy.bank)
        return MetricValue(self, "TicketCount", self._count, strategy.clock.train_iterations)


def rtl_metrics(
    *,
    balanced_accuracy: bool = True,
    recall: bool = True,
    recall_by_class: bool = False,
    router_accuracy: bool = True,
    ticket_count: bool = True,
) -> list[PluginMetric[Any]]:
    """Metrics for an ``EvaluationPlugin``; leave out what is not wanted.

    Args:
        balanced_accuracy: of each domain, and the mean.
        recall: of each domain, and the mean.
        recall_by_class: recall of each class too.
        router_accuracy: of each domain, and the mean; only for strategies that route.
        ticket_count: number of tickets; only for strategies with a bank.

    Example:
        >>> [type(metric).__name__ for metric in rtl_metrics(recall=False)]
        ['BalancedAccuracy', 'RouterAccuracy', 'TicketCount']
    """
    metrics: list[PluginMetric[Any]] = []
    if balanced_accuracy:
        metrics.append(BalancedAccuracy())
    if recall or recall_by_class:
        metrics.append(Recall(by_class=recall_by_class))
    if router_accuracy:
        metrics.append(RouterAccuracy())
    if ticket_count:
        metrics.append(TicketCount())
    return metrics


def _domain(experience: Any) -> str:
    """An experience's domain name, or its number where it has none."""
    return getattr(experience, "domain", None) or f"Exp{experience.current_experience:03d}"


def _columns(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    left, right = zip(*batches, strict=True)
    return torch.cat(left).cpu().numpy(), torch.cat(right).cpu().numpy()
