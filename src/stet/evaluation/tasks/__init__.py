"""Tasks: the questions of a comparison, and how their answers are graded."""

# Importing a task's file registers it.
from stet.evaluation.tasks import bundled, gsm8k, math500, multiarith, spec_bench, svamp
from stet.evaluation.tasks.base import Item, LoadedTask, Question, Source, Task, TaskError
from stet.evaluation.tasks.dataset import DatasetTask
from stet.evaluation.tasks.load import load_task
from stet.evaluation.tasks.registry import available_tasks, find_task, register

__all__ = [
    "DatasetTask",
    "Item",
    "LoadedTask",
    "Question",
    "Source",
    "Task",
    "TaskError",
    "available_tasks",
    "bundled",
    "find_task",
    "gsm8k",
    "load_task",
    "math500",
    "multiarith",
    "register",
    "spec_bench",
    "svamp",
]
