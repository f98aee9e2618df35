"""Finding tasks by name: the built-in ones, and those of other packages.

Another package offers a task through the entry-point group `stet.tasks`; a script registers one
with the decorator. Both then work everywhere a task is named.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, TypeVar

from stet.errors import OptionError
from stet.evaluation.tasks.base import Task

GROUP = "stet.tasks"

_tasks: dict[str, type[Task]] = {}
_loaded_entry_points = False

T = TypeVar("T", bound=type[Task])


def register(task: T) -> T:
    """Class decorator: make a task available under its name and aliases.

    Raises:
        OptionError: if another task has one of these names.
    """
    for name in (task.name, *task.aliases):
        known = _named().get(name)
        if known is not None and known.__qualname__ != task.__qualname__:
            raise OptionError(
                f"A task named {name!r} exists already ({known.__module__}); choose another."
            )
    _tasks[task.name] = task
    return task


def available_tasks() -> list[type[Task]]:
    """Every registered task class, sorted by name."""
    global _loaded_entry_points
    if not _loaded_entry_points:
        _loaded_entry_points = True
        for entry in entry_points(group=GROUP):
            loaded: Any = entry.load()
            if loaded.name not in _tasks:
                register(loaded)
    return sorted(_tasks.values(), key=lambda task: task.name)


def find_task(name: str) -> type[Task] | None:
    """The task with this name or alias, however it is spelt (`Spec_Bench`), or None."""
    available_tasks()
    return _named().get(name.lower().replace("_", "-"))


def _named() -> dict[str, type[Task]]:
    return {name: task for task in _tasks.values() for name in (task.name, *task.aliases)}
