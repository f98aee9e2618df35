"""Records of a long run, from which it goes on after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stet.core.reading import json_lines
from stet.core.writing import append_lines, drop_torn_line, json_line


class Checkpoint:
    """Records, a JSON object a line, kept as soon as they are made.

    Args:
        path: the file; what an interruption cut short at its end is dropped.
        plan: what the records are of. A file of another plan is refused.

    Raises:
        SystemExit: the file is of another plan.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        self.path = path
        digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
        self.records: list[dict[str, Any]] = []
        drop_torn_line(path)
        kept = json_lines(path) if path.exists() else []
        if kept and kept[0].get("plan") != digest:
            raise SystemExit(f"{path} is of another plan or version; --fresh begins anew.")
        self.records = kept[1:]
        if not kept:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"plan": digest})

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record."""
        self._append(record)
        self.records.append(record)

    def find(self, **fields: Any) -> dict[str, Any] | None:
        """The first record with these entries."""
        for record in self.records:
            if all(record.get(name) == value for name, value in fields.items()):
                return record
        return None

    def _append(self, record: dict[str, Any]) -> None:
        append_lines(self.path, [json_line(record)])
