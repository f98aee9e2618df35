"""Tasks whose problems are the records of a file, or of a data set on the hub."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from stet.evaluation.tasks.base import Item, Source, Task, TaskError
from stet.evaluation.tasks.rows import Row, fetch_rows, read_rows, value

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")


class DatasetTask(Task):
    """A task that turns records into items, one by one.

    Attributes:
        hub: repository and configuration on the Hugging Face hub; None if it is not on the hub.
        home: advice on where to get its file, for the error where there is neither file nor hub.
    """

    hub: ClassVar[tuple[str, str | None] | None] = None
    home: ClassVar[str] = ""

    @abstractmethod
    def item(self, row: Row, number: int, where: str) -> Item:
        """Make an item from one record.

        Args:
            row: the record.
            number: its index among the records, from 0.
            where: its description in an error.

        Raises:
            TaskError: for a record of another form.
        """

    def items(self, source: Source) -> list[Item]:
        """The records of a local file, of `<split>.jsonl` in a local folder, or of the hub."""
        path = None if source.path is None else _file(source.path, source.split)
        if path is not None:
            rows, origin = read_rows(path), str(path)
        elif self.hub is not None:
            rows, origin = fetch_rows(self.name, *self.hub, source.split), self.hub[0]
        else:
            raise TaskError(f"{self.name} needs a local file; {self.home}.")
        items: list[Item] = []
        for number, row in enumerate(rows):
            where = f"{origin}, record {number + 1},"
            ours = {name: value(row, theirs, where) for name, theirs in source.names.items()}
            items.append(self.item({**row, **ours}, number, where))
        return items


def _file(path: Path, split: str) -> Path:
    if not path.is_dir():
        return path
    for suffix in SUFFIXES:
        if (found := path / f"{split}{suffix}").is_file():
            return found
    raise TaskError(f"The folder {path} has no {split}.jsonl or {split}.json.")
