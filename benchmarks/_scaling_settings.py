"""What `scaling.py` measures: the pair, its prompts, and the rows that were measured already."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import stet
from stet.requests.options import PINNED

NAMES = {
    "bundled": "the bundled pair",
    "real": "Qwen2.5-Coder 1.5B and 0.5B Instruct, Q4_K_M dequantised to bfloat16",
}


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        pair: "bundled" or "real".
        models: folder of the real models.
        peers: folder of installed peers.
        root: where rows are kept.
        before: a checkout of an earlier version.
        threads: threads of passes; None: 1 for the bundled pair, else 2.
        longest: the most tokens of a context.
        alternations: turns of two versions.
        repeats: times that each point of a curve is measured.
    """

    pair: str
    models: Path
    peers: Path
    root: Path
    before: Path | None
    threads: int | None
    longest: int
    alternations: int
    repeats: int

    @property
    def is_real(self) -> bool:
        """Whether it is about the real pair."""
        return self.pair == "real"

    @property
    def thread_count(self) -> int:
        """Threads of passes."""
        return self.threads or (2 if self.is_real else 1)

    def path(self, role: str, *, packed: bool = False) -> Path:
        """A model's folder, or its GGUF file."""
        name = {"target": "coder-1.5b", "draft": "coder-0.5b"}[role]
        return self.models / (f"{name}.gguf" if packed else name)

    def missing(self) -> Path | None:
        """A file that is needed and not there."""
        paths = [self.path(role) for role in ("target", "draft")] if self.is_real else []
        return next((path for path in paths if not path.exists()), None)

    @contextmanager
    def load(self, **options: Any) -> Iterator[stet.Pair]:
        """The pair, whose passes take the threads that were asked for."""
        gc.collect()  # an earlier pair, which would be counted as well
        names = [str(self.path(role)) for role in ("target", "draft")] if self.is_real else []
        with stet.load_pair(*names, compile=False, **options) as pair:
            torch.set_num_threads(self.thread_count)
            _ = pair.costs
            yield pair

    @property
    def limit(self) -> int:
        """The longest context that both models have."""
        return min(self.longest, 32_768 if self.is_real else 1024)

    def prompt(self, pair: stet.Pair, tokens: int, seed: int) -> list[int]:
        """A document of so many tokens, with a question at its end.

        Documents of different seeds begin differently, so that nothing is shared.
        """
        generator = random.Random(f"scaling/{seed}")
        question = self._encode(pair, "\nHow much is 12 + 30? Let us see.\n")
        text: list[int] = []
        while len(text) < tokens:
            a, b = generator.randrange(1000), generator.randrange(1000)
            text += self._encode(pair, f"Entry {a}: {b} boxes were sold on day {a % 31}.\n")
        return [*text[: max(0, tokens - len(question))], *question][-tokens:]

    @staticmethod
    def _encode(pair: stet.Pair, text: str) -> list[int]:
        return list(pair.tokenizer(text, add_special_tokens=False)["input_ids"])


GREEDY: dict[str, Any] = {"ignore_eos": True, **PINNED}
"""Options of an answer that is as long as was asked."""


class Rows:
    """The rows of one part, kept in a file as they are measured.

    Args:
        settings: of the run.
        part: name of the part.
    """

    def __init__(self, settings: Settings, part: str) -> None:
        self._path = settings.root / f"{settings.pair}-{part}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = read(self._path)

    def has(self, **key: Any) -> bool:
        """Whether a row with these entries was measured."""
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, **row: Any) -> None:
        """Keep a row."""
        self.rows.append(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where there is none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
