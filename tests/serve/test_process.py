"""The command: ready soon, stopped with care, and clean after it was killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest

from served import PROMPT

pytestmark = pytest.mark.slow


@contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `stet serve` and wait until it is ready."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "stet.cli", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"at (http://[^ ]+) ", line):
                rest = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
                rest.start()
                yield process, found[1]
                return
        raise AssertionError("".join(lines))
    finally:
        process.kill()
        process.wait()


def body(**more) -> dict:
    return {"model": "stet-bundled", "prompt": PROMPT, "temperature": 0, "max_tokens": 40, **more}


def test_a_signal_lets_requests_finish() -> None:
    with started() as (process, url):
        found: list[httpx2.Response] = []
        long = body(max_tokens=700, ignore_eos=True)

        def ask() -> None:
            found.append(httpx2.post(f"{url}/v1/completions", json=long, timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        while "running{" not in (text := httpx2.get(f"{url}/metrics").text) or not re.search(
            r"vllm:num_requests_running\{[^}]*\} [1-9]", text
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert process.wait(60) == 0
        assert found[0].status_code == 200
        assert found[0].json()["usage"]["completion_tokens"] == 700


def test_what_does_not_finish_in_time_fails_with_a_sentence() -> None:
    with started("--grace", "0.3") as (process, url):
        long = body(max_tokens=900, ignore_eos=True, n=16, stream=True)
        with httpx2.stream("POST", f"{url}/v1/completions", json=long, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            said = [line for line in lines if line.startswith("data: ")]
        assert said[-1] == "data: [DONE]"
        last = json.loads(said[-2][6:])
        assert last["error"]["code"] == "shutting_down"
        assert process.wait(60) == 0


def test_a_kill_leaves_nothing_behind() -> None:
    with started() as (process, url):
        first = httpx2.post(f"{url}/v1/completions", json=body(), timeout=60).json()
        with httpx2.stream(
            "POST", f"{url}/v1/completions", json=body(stream=True, ignore_eos=True), timeout=60
        ) as stream:
            next(stream.iter_lines())
            process.kill()
            process.wait()
    with started() as (_, url):
        again = httpx2.post(f"{url}/v1/completions", json=body(), timeout=60).json()
        assert again["choices"][0]["text"] == first["choices"][0]["text"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--policy", "nope"], "nope"),
        (["--host", "0.0.0.0"], "others can reach the server"),
        (["--metrics", "all"], "--metrics"),
        (["--allow", "nope"], "nope"),
        (["--host", "256.1.1.1", "--no-key"], "cannot listen"),
        (["--target", "https://example.org/v1", "--draft", "x"], "local target"),
        (["--allow-origin", "example.org"], "no origin"),
    ],
)
def test_mistakes_are_one_sentence(options: list[str], words: str) -> None:
    command = [sys.executable, "-m", "stet.cli", "serve", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken() -> None:
    with started() as (_, url):
        port = url.rpartition(":")[2]
        command = [sys.executable, "-m", "stet.cli", "serve", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        assert "cannot listen" in done.stderr
