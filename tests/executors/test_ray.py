"""Runs on a Ray cluster of this machine: the records of one process, also after real deaths."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from executors.kept import content
from families import save_pair
from stet.core.folders import PROFILE
from stet.evaluation import records

# On the loopback interface alone; Ray reads this when it is imported.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
ray = pytest.importorskip("ray", reason="needs Ray; `make test-ray` installs it")

pytestmark = pytest.mark.slow

QUESTIONS = 40
WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]
ACTOR = "ray::RayWorker"


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster with room for two workers, which lives longer than a driver."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=2**28,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("ray")
    save_pair(place, noise=0.1)
    questions = [f"{WORDS[i % 8]} {WORDS[i // 8]}" for i in range(QUESTIONS)]
    lines = [json.dumps({"question": q, "answer": f"{i}"}) for i, q in enumerate(questions)]
    (place / "mine.jsonl").write_text("\n".join(lines) + "\n")
    (place / "prompts.txt").write_text("\n".join(questions) + "\n")
    return place


def start(place, *words):
    """Begin a command in a process of its own, in the folder of the models."""
    command = [sys.executable, "-m", "stet.cli", *map(str, words)]
    command += ["--target", "target", "--draft", "draft", "--max-length", "200"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # In the background of a script Ctrl-C is ignored, also by whoever is started there.
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    return subprocess.Popen(
        command, cwd=place, env=environment, text=True, preexec_fn=heed, **pipes
    )


def finish(process, code=0):
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == code, stderr
    return stdout, stderr


def compare(place, folder, *more):
    return start(
        place,
        *("compare", "--task", "mine.jsonl", "--template", "{{ question }}", "--grader", "number"),
        *("--max-new-tokens", 24, "--no-chat", "--batch", 2, "--draft-length", 3),
        *("-p", "ensemble", "-p", "majority:of=draft,k=3", "-o", folder, *more),
    )


@pytest.fixture(scope="module")
def local(place):
    finish(compare(place, place / "local"))
    return place / "local"


def written(folder):
    path = folder / records.ANSWERS
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(condition, what, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it took too long until {what}"
        time.sleep(0.005)


def actors():
    """Processes of workers below this one, busy or not."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline() and process.cmdline()[0].startswith(ACTOR):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_records_are_those_of_one_process(cluster, place, local, tmp_path, workers):
    folder = tmp_path / "run"
    finish(compare(place, folder, "--ray", cluster, "--workers", workers))
    assert content(folder) == content(local)
    names = {answer.machine["worker"] for answer in records.read_answers(folder)}
    assert len(names) == workers
    assert {answer.machine["threads"] for answer in records.read_answers(folder)} == {1}
    wait_for(lambda: not actors(), "the workers of a finished run are gone")


def test_a_killed_worker_is_replaced_and_nothing_is_lost(cluster, place, local, tmp_path):
    folder = tmp_path / "run"
    process = compare(place, folder, "--ray", cluster, "--workers", 2)
    wait_for(lambda: written(folder), "the first chunk is written")
    victim = actors()[0]
    victim.send_signal(signal.SIGKILL)
    before = written(folder)
    _, stderr = finish(process)
    assert before < written(local)
    assert "A worker died" in " ".join(stderr.split())
    assert content(folder) == content(local)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_driver_that_ends_leaves_records_that_go_on(cluster, place, local, tmp_path, sent, code):
    folder = tmp_path / "run"
    process = compare(place, folder, "--ray", cluster, "--workers", 2)
    # An interrupted write is taken back, and it may be the newest.
    wait_for(lambda: written(folder) > 24, "two chunks are written")
    process.send_signal(sent)
    finish(process, code)
    assert 0 < written(folder) < written(local)
    wait_for(lambda: not actors(), "the workers of a dead driver are gone")
    _, stderr = finish(compare(place, folder, "--ray", cluster, "--workers", 2))
    assert "answers are there already" in stderr
    assert content(folder) == content(local)


def test_a_cluster_of_its_own_ends_with_its_driver(place, local, tmp_path):
    """Blocks are as long as costs say; a run that was begun elsewhere goes on with its costs."""
    options = ("--draft-length", "auto", "--batch", 1)
    finish(compare(place, tmp_path / "here", *options))
    folder = tmp_path / "there"
    folder.mkdir()
    shutil.copy(tmp_path / "here" / PROFILE, folder / PROFILE)
    process = compare(place, folder, *options, "--ray", "--workers", 2)
    wait_for(lambda: written(folder), "the first chunk is written")
    below = psutil.Process(process.pid).children(recursive=True)
    # Whatever listens does so on this machine alone.
    heard = {
        connection.laddr.ip
        for child in below
        if child.is_running()
        for connection in child.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    process.kill()
    finish(process, -9)
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    wait_for(lambda: not any(c.is_running() for c in below), "the cluster is gone")
    finish(compare(place, folder, *options, "--ray", "--workers", 2))
    assert content(folder) == content(tmp_path / "here")
    assert (folder / PROFILE).read_bytes() == (tmp_path / "here" / PROFILE).read_bytes()


def test_prompts_are_answered_in_their_order(cluster, place):
    options = ("-f", "prompts.txt", "--json", "--show-origin", "-n", 24, "--batch", 2)
    options += ("--no-chat", "-p", "ensemble", "--draft-length", 3, "--temperature", 0.7)
    options += ("--seed", 4)
    here, there = (
        [
            json.loads(line)
            for line in finish(start(place, "generate", *options, *more))[0].split("\n")[:-1]
        ]
        for more in ((), ("--ray", cluster, "--workers", 2))
    )
    assert len(here) == QUESTIONS
    for name in ("prompt", "text", "seed", "finish_reason", "error"):
        assert [a[name] for a in there] == [a[name] for a in here]
    for one, other in zip(here, there, strict=True):
        tokens = [[(t["id"], t["origin"], t["reason"]) for t in a["tokens"]] for a in (one, other)]
        assert tokens[0] == tokens[1]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:9", "127.0.0.1:9 is no Ray cluster that can be reached"),
        ("CLUSTER", "The cluster has room for 2 workers with 1 threads each, not for 9"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(cluster, place, tmp_path, address, sentence):
    address = cluster if address == "CLUSTER" else address
    process = compare(place, tmp_path / "run", "--ray", address, "--workers", 9)
    stdout, stderr = finish(process, 2)
    assert sentence in " ".join(stderr.split())
    assert "Traceback" not in stderr + stdout


def test_a_pair_that_a_worker_cannot_load_is_one_sentence(cluster, place, tmp_path):
    process = start(
        place, "compare", "-o", tmp_path / "run", "--ray", cluster, "--dtype", "float31"
    )
    stdout, stderr = finish(process, 2)
    assert "float31" in stderr
    assert "Traceback" not in stderr + stdout
