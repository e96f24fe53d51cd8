"""What a new ticket starts from: nothing, or what the bank already knows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rtl_continual.tickets import Ticket, TicketBank
from rtl_continual.training._balance import balance_classes
from rtl_continual.training._config import TicketConfig
from rtl_continual.training._epochs import epoch_batches, steps_per_epoch
from rtl_continual.training._head_start import HasActivations, start_head
from rtl_continual.training._learner import TicketLearner
from rtl_continual.training._norm import estimate_norm

__all__ = ["choose_parent", "choose_start", "trial_losses"]

_HELD_OUT = 5
"""One sample in so many judges a trial."""


@torch.no_grad()
def choose_parent(bank: TicketBank, cache: HasActivations, *, limit: int = 512) -> Ticket | None:
    """The ticket whose outputs fit the new data best (lowest task loss), or ``None`` without one.

    Args:
        bank: the tickets to choose from.
        cache: the new data.
        limit: judge on at most so many samples, evenly spread.
    """
    if not len(bank):
        return None
    count = len(cache.targets)
    index = torch.linspace(0, count - 1, min(limit, count)).round().long().unique()
    activation, _, targets = cache.batch(index)
    losses = [
        float(bank.task.loss(bank.run_ticket(t.id, activation.clone()), targets)) for t in bank
    ]
    return bank[min(range(len(bank)), key=losses.__getitem__)]


def choose_start(
    bank: TicketBank, cache: HasActivations, config: TicketConfig, *, seed: int
) -> Ticket | None:
    """The ticket to start from, or ``None`` for a cold start.

    A warm start has to earn its place: a few epochs of each kind (``config.start_trial`` of those
    planned) are run on four fifths of the data, to the sparsity that is asked for, and the lower
    loss on the rest decides. Both trials see the same batches. Where the share is less than one
    epoch, or there are fewer than ten samples, the warm start is taken without a trial.

    Args:
        bank: what is known; not changed.
        cache: the new data.
        config: options.
        seed: of everything random in the trials.
    """
    parent = None if config.start == "cold" else choose_parent(bank, cache)
    epochs = int(config.start_trial * config.epochs)
    if parent is None or not epochs or len(cache.targets) < 2 * _HELD_OUT:
        return parent
    warm, cold = trial_losses(bank, cache, config, [parent, None], epochs=epochs, seed=seed)
    return parent if warm <= cold else None


def trial_losses(
    bank: TicketBank,
    cache: HasActivations,
    config: TicketConfig,
    starts: Sequence[Ticket | None],
    *,
    epochs: int,
    seed: int,
) -> list[float]:
    """What each start comes to in a few epochs: mean task loss on the samples held out.

    Args:
        bank: what is known; not changed.
        cache: at least ten samples.
        config: options.
        starts: tickets to start from; ``None`` is a cold start.
        epochs: passes over the four fifths that are trained on.
        seed: of the split and everything random in training.
    """
    order = torch.randperm(len(cache.targets), generator=torch.Generator().manual_seed(seed))
    held, kept = order.tensor_split([len(order) // _HELD_OUT])
    steps = epochs * steps_per_epoch(len(kept), config.batch_size)
    losses = []
    for start in starts:
        learner = TicketLearner(bank, config, total_steps=steps, seed=seed, parent=start)
        balance_classes(learner, cache)
        start_head(learner, cache)
        for epoch in range(epochs):
            for index in epoch_batches(len(kept), config.batch_size, seed, epoch):
                activation, _, targets = cache.batch(kept[index])
                learner.step(activation, targets)
        estimate_norm(learner, cache)
        losses.append(_mean_loss(learner, cache, held))
    return losses


@torch.no_grad()
def _mean_loss(learner: TicketLearner, cache: HasActivations, rows: torch.Tensor) -> float:
    total = 0.0
    for index in rows.split(256):
        activation, _, targets = cache.batch(index)
        outputs = learner.forward(activation, training=False)
        total += float(learner.task_loss(outputs, targets)) * len(index)
    return total / len(rows)
