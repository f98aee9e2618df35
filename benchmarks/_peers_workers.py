"""A peer in a process of its own, asked over a pipe with a JSON object a line."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

LONGEST_LINE = 64 << 20
"""Characters of an answer; a peer that writes more is at fault."""


class PeerError(Exception):
    """A peer that could not be started, that answered with an error, or that is gone."""


@dataclass(frozen=True)
class Spec:
    """How a worker is started and what it loads.

    Attributes:
        name: of the worker, in messages and in the name of its log.
        command: its command line.
        load: options of its first request.
        folder: it runs in this folder.
        environment: variables added to this process's own.
    """

    name: str
    command: tuple[str, ...]
    load: Mapping[str, Any]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Worker:
    """A running worker, whose models are loaded.

    Args:
        spec: how to start it.
        log: file that its standard error is appended to.
        load_seconds: the longest that loading may take.
        answer_seconds: the longest that an answer may take.

    Raises:
        PeerError: it does not load; the message is its own.
    """

    def __init__(
        self, spec: Spec, log: Path, *, load_seconds: float = 900, answer_seconds: float = 300
    ) -> None:
        self.spec = spec
        self.answer_seconds = answer_seconds
        with log.open("a", encoding="utf-8") as errors:
            try:
                self._process = subprocess.Popen(
                    spec.command,
                    cwd=spec.folder,
                    env=os.environ | spec.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    encoding="utf-8",
                    start_new_session=True,  # so that it is ended with what it started itself
                )
            except OSError as error:
                raise PeerError(f"{spec.name}: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        try:
            self.about: dict[str, Any] = self.ask({"load": dict(spec.load)}, load_seconds)["ready"]
        except PeerError:
            self.close()
            raise

    def ask(self, request: Mapping[str, Any], seconds: float | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            request: as `peers/serve.py` describes it.
            seconds: the longest to wait; None: `answer_seconds`.

        Raises:
            PeerError: the worker answered with an error, not in time, or is gone; after the latter
                two it is ended.
        """
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
            line = self._answers.get(timeout=seconds or self.answer_seconds)
        except (OSError, ValueError, queue.Empty) as error:
            self.close()
            raise PeerError(f"{self.spec.name}: no answer ({type(error).__name__})") from error
        if not line:
            self.close()
            raise PeerError(f"{self.spec.name}: ended with code {self._process.returncode}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.spec.name}: {answer['error']}")
        return dict(answer)

    def close(self) -> None:
        """End the worker and everything that it started."""
        with suppress(OSError):  # it is gone, with part of a request unread
            self._requests.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self, out: TextIO) -> None:
        while line := out.readline(LONGEST_LINE):
            self._answers.put(line)
        self._answers.put("")
