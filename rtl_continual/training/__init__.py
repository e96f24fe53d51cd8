"""Training: learns a ticket's mask, norm and head, and the router with it."""

from rtl_continual.training._augment import random_shift
from rtl_continual.training._config import TicketConfig
from rtl_continual.training._joint import JointConfig, learn_joint
from rtl_continual.training._learn import (
    TrunkCache,
    choose_parent,
    commit_ticket,
    epoch_batches,
    learn_ticket,
    steps_per_epoch,
)
from rtl_continual.training._learner import TicketLearner

__all__ = [
    "JointConfig",
    "TicketConfig",
    "TicketLearner",
    "TrunkCache",
    "choose_parent",
    "commit_ticket",
    "epoch_batches",
    "learn_joint",
    "learn_ticket",
    "random_shift",
    "steps_per_epoch",
]
