"""Tasks by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel

from rtl_continual.errors import RTLError, unknown_name
from rtl_continual.registry import ClassRegistry, NamedSection
from rtl_continual.tasks._classification import Classification
from rtl_continual.tasks._task import Task

__all__ = ["BUILT_IN_TASKS", "TaskSection", "build_task", "task_config_class", "task_names"]

BUILT_IN_TASKS: dict[str, type[Task]] = {"classification": Classification}
"""What the built-in plugin registers."""

_TASKS: ClassRegistry[Task] = ClassRegistry("task", Task)

TaskSection = Annotated[BaseModel, NamedSection(_TASKS)]
"""The type of a field that holds a task's options."""


def task_names() -> tuple[str, ...]:
    """The names of all tasks, sorted."""
    return tuple(_TASKS)


def task_config_class(name: str) -> type[BaseModel]:
    """The options of the task called ``name``.

    Raises:
        RTLError: if there is no such task.
    """
    return _TASKS.config_class(name)


def build_task(config: BaseModel, num_outputs: int, classes: Sequence[str] | None = None) -> Task:
    """A task from an instance of its own config class.

    Args:
        config: options.
        num_outputs: length of an output; the number of classes.
        classes: their names, where known.

    Raises:
        RTLError: if no task has such a config.
        DataError: if names and outputs do not fit together.

    Example:
        >>> build_task(task_config_class("classification")(), 2).name
        'classification'
    """
    name = getattr(config, "name", "")
    if name in _TASKS and type(config) is _TASKS.config_class(name):
        task: Any = _TASKS[name]
        return task(num_outputs, classes, config)
    known = [_TASKS.config_class(name).__name__ for name in _TASKS]
    raise RTLError(unknown_name("task config", type(config).__name__, known))
