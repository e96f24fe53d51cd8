"""Tasks: what a head, a loss and a metric are."""

from rtl_continual.tasks._classification import Classification, ClassificationConfig
from rtl_continual.tasks._metrics import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    recall_by_class,
)
from rtl_continual.tasks._registry import (
    BUILT_IN_TASKS,
    TaskSection,
    build_task,
    task_config_class,
    task_names,
)
from rtl_continual.tasks._task import Task

__all__ = [
    "BUILT_IN_TASKS",
    "Classification",
    "ClassificationConfig",
    "Task",
    "TaskSection",
    "accuracy",
    "balanced_accuracy",
    "build_task",
    "confusion_matrix",
    "recall_by_class",
    "task_config_class",
    "task_names",
]
