"""Training: learns a ticket's mask, norm and head, and the router with it."""

from rtl_continual.training._augment import random_flip, random_shift
from rtl_continual.training._balance import Loss, balance_classes, balanced_loss
from rtl_continual.training._collapse import CollapseMonitor, CollapseReport
from rtl_continual.training._collapse_config import CollapseConfig
from rtl_continual.training._collapse_scores import (
    COLLAPSE_SCORES,
    CollapseScore,
    ScoreValue,
    TicketState,
)
from rtl_continual.training._config import TicketConfig
from rtl_continual.training._epochs import epoch_batches, steps_per_epoch, take_turns
from rtl_continual.training._head_start import finish_head, start_head
from rtl_continual.training._joint import JointConfig, learn_joint
from rtl_continual.training._learn import (
    CacheRows,
    TrunkCache,
    TrunkOutputs,
    commit_ticket,
    commit_tickets,
    finish_tickets,
    learn_ticket,
    learn_tickets,
    start_learners,
)
from rtl_continual.training._learner import (
    TicketLearner,
    batch_norm_mode,
    drive_together,
    joint_parameter_groups,
)
from rtl_continual.training._linear_head import solve_linear
from rtl_continual.training._relaxation import (
    BUILT_IN_RELAXATION_POLICIES,
    RELAXATION_POLICIES,
    LayersPolicy,
    LayersPolicyConfig,
    RegrowPolicy,
    RegrowPolicyConfig,
    Relaxation,
    RelaxationPolicy,
    RelaxationSection,
    StopPolicy,
    StopPolicyConfig,
    build_relaxation_policy,
)
from rtl_continual.training._start import choose_parent, choose_start, trial_losses
from rtl_continual.training._watch import CollapseWatch, OnCollapse, watch_collapse

__all__ = [
    "BUILT_IN_RELAXATION_POLICIES",
    "COLLAPSE_SCORES",
    "RELAXATION_POLICIES",
    "CacheRows",
    "CollapseConfig",
    "CollapseMonitor",
    "CollapseReport",
    "CollapseScore",
    "CollapseWatch",
    "JointConfig",
    "LayersPolicy",
    "LayersPolicyConfig",
    "Loss",
    "OnCollapse",
    "RegrowPolicy",
    "RegrowPolicyConfig",
    "Relaxation",
    "RelaxationPolicy",
    "RelaxationSection",
    "ScoreValue",
    "StopPolicy",
    "StopPolicyConfig",
    "TicketConfig",
    "TicketLearner",
    "TicketState",
    "TrunkCache",
    "TrunkOutputs",
    "balance_classes",
    "balanced_loss",
    "batch_norm_mode",
    "build_relaxation_policy",
    "choose_parent",
    "choose_start",
    "commit_ticket",
    "commit_tickets",
    "drive_together",
    "epoch_batches",
    "finish_head",
    "finish_tickets",
    "joint_parameter_groups",
    "learn_joint",
    "learn_ticket",
    "learn_tickets",
    "random_flip",
    "random_shift",
    "solve_linear",
    "start_head",
    "start_learners",
    "steps_per_epoch",
    "take_turns",
    "trial_losses",
    "watch_collapse",
]
