"""Tasks by name; other packages add theirs through the entry-point group `stet.tasks`."""

from __future__ import annotations

from stet.core.registry import Registry
from stet.evaluation.tasks.base import Task

TASKS: Registry[Task] = Registry("task", "stet.tasks")

register = TASKS.register
available_tasks = TASKS.available


def find_task(name: str) -> type[Task] | None:
    """The task with this name or alias, however it is spelt (`Spec_Bench`), or None."""
    return TASKS.find(name.lower().replace("_", "-"))
