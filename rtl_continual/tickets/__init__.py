"""Tickets: masks and scores, schedules, similarity, and the bank that holds them."""

from rtl_continual.tickets._bank import TicketBank
from rtl_continual.tickets._executor import (
    BUILT_IN_EXECUTORS,
    Executor,
    ExecutorSection,
    GroupedExecutor,
    GroupedExecutorConfig,
    SeparateExecutor,
    SeparateExecutorConfig,
    build_executor,
    executor_config_class,
    executor_names,
)
from rtl_continual.tickets._lazy import LazyTickets
from rtl_continual.tickets._mask import Mask, MaskLayout, norm_state_names, union
from rtl_continual.tickets._merged import MergedBody, merge_features
from rtl_continual.tickets._packed import run_trunk
from rtl_continual.tickets._predict import Prediction
from rtl_continual.tickets._schedule import (
    BUILT_IN_SCHEDULES,
    CubicSchedule,
    CubicScheduleConfig,
    ScheduleSection,
    SparsitySchedule,
    build_schedule,
    cubic_sparsity,
    schedule_config_class,
    schedule_names,
)
from rtl_continual.tickets._scores import MaskScores, magnitude_scores, top_scores
from rtl_continual.tickets._similarity import (
    chance_jaccard,
    corrected_jaccard,
    layer_similarity,
    similarity_matrix,
    similarity_scores,
)
from rtl_continual.tickets._skeleton import CompiledSkeleton, Skeleton
from rtl_continual.tickets._structured import UnitScores
from rtl_continual.tickets._ticket import Ticket, TicketInfo
from rtl_continual.tickets._units import UnitGroup, find_units

__all__ = [
    "BUILT_IN_EXECUTORS",
    "BUILT_IN_SCHEDULES",
    "CompiledSkeleton",
    "CubicSchedule",
    "CubicScheduleConfig",
    "Executor",
    "ExecutorSection",
    "GroupedExecutor",
    "GroupedExecutorConfig",
    "LazyTickets",
    "Mask",
    "MaskLayout",
    "MaskScores",
    "MergedBody",
    "Prediction",
    "ScheduleSection",
    "SeparateExecutor",
    "SeparateExecutorConfig",
    "Skeleton",
    "SparsitySchedule",
    "Ticket",
    "TicketBank",
    "TicketInfo",
    "UnitGroup",
    "UnitScores",
    "build_executor",
    "build_schedule",
    "chance_jaccard",
    "corrected_jaccard",
    "cubic_sparsity",
    "executor_config_class",
    "executor_names",
    "find_units",
    "layer_similarity",
    "magnitude_scores",
    "merge_features",
    "norm_state_names",
    "run_trunk",
    "schedule_config_class",
    "schedule_names",
    "similarity_matrix",
    "similarity_scores",
    "top_scores",
    "union",
]
