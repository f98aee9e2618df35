"""Calls to math-verify about expressions, from any thread and in bounded time.

The package limits its time by a signal, which only a program's main thread can receive. Here it
runs in a separate process, started when first needed, that ends where an expression takes too long;
the next call starts another.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stet.core.errors import StetError

PATIENCE = 120.0
"""Seconds after which a process that has not ended by its own limits is killed."""

LONGEST = 2**20
"""The most characters of a text; no answer is longer."""

_SCRIPT = Path(__file__).with_name("expression_process.py")


def available() -> bool:
    """Whether math-verify is installed."""
    return find_spec("math_verify") is not None


def ask(operation: str, *texts: str) -> Any:
    """Run an operation of `expression_process` on texts; None where it takes too long.

    Raises:
        StetError: math-verify is not installed, or its process does not start.
    """
    if any(len(text) > LONGEST for text in texts):
        return None
    return _ASKED.ask([operation, *texts])


class _Asked:
    """The process, and the lock for its use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, question: list[str]) -> Any:
        with self._lock:
            process = self._running()
            line = _send(process, json.dumps(question))
            if not line:
                self.close()
                return None
            return json.loads(line)

    def close(self) -> None:
        """End the process; the next call starts another."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.kill()
        process.wait()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._owner == os.getpid():
            return self._process
        # After a fork the process is the parent's.
        if not available():
            raise StetError(
                "The grader 'math-verify' needs a package: pip install 'stet-decoding[tasks]'."
            )
        process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._process, self._owner = process, os.getpid()
        if _send(process, None) != "ready\n":
            self.close()
            raise StetError("math-verify does not start; is it installed completely?")
        return process


def _send(process: subprocess.Popen[str], question: str | None) -> str:
    """Send a line, if any, and wait for the answer; empty where the process ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    limit = threading.Timer(PATIENCE, process.kill)
    limit.daemon = True
    limit.start()
    try:
        if question is not None:
            process.stdin.write(question + "\n")
            process.stdin.flush()
        return process.stdout.readline()
    except OSError:
        return ""
    finally:
        limit.cancel()


_ASKED = _Asked()
atexit.register(_ASKED.close)
