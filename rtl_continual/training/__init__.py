"""Training: learns a ticket's mask, norm and head, and the router with it."""

from rtl_continual.training._augment import random_flip, random_shift
from rtl_continual.training._balance import balance_classes
from rtl_continual.training._collapse import CollapseMonitor, CollapseReport
from rtl_continual.training._collapse_config import CollapseConfig
from rtl_continual.training._collapse_scores import (
    COLLAPSE_SCORES,
    CollapseScore,
    ScoreValue,
    TicketState,
)
from rtl_continual.training._config import TicketConfig
from rtl_continual.training._epochs import epoch_batches, steps_per_epoch
from rtl_continual.training._head_start import finish_head, solve_linear, start_head
from rtl_continual.training._joint import JointConfig, learn_joint
from rtl_continual.training._learn import TrunkCache, commit_ticket, learn_ticket
from rtl_continual.training._learner import TicketLearner, batch_norm_mode
from rtl_continual.training._mapped import MappedTrunkCache
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
from rtl_continual.training._start import choose_parent, choose_start
from rtl_continual.training._watch import CollapseWatch, OnCollapse, watch_collapse

__all__ = [
    "BUILT_IN_RELAXATION_POLICIES",
    "COLLAPSE_SCORES",
    "RELAXATION_POLICIES",
    "CollapseConfig",
    "CollapseMonitor",
    "CollapseReport",
    "CollapseScore",
    "CollapseWatch",
    "JointConfig",
    "LayersPolicy",
    "LayersPolicyConfig",
    "MappedTrunkCache",
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
    "balance_classes",
    "batch_norm_mode",
    "build_relaxation_policy",
    "choose_parent",
    "choose_start",
    "commit_ticket",
    "epoch_batches",
    "finish_head",
    "learn_joint",
    "learn_ticket",
    "random_flip",
    "random_shift",
    "solve_linear",
    "start_head",
    "steps_per_epoch",
    "watch_collapse",
]
