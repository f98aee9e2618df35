"""How threads of passes wait: which threads there are, and when that changes."""

import threading
import time

import psutil
import pytest
import torch

from stet.engine.waits import EVERY, Waits
from stet.kernels import threads

pytestmark = pytest.mark.unit


class Crowd:
    def __init__(self):
        self.calls = []

    def come(self):
        self.calls.append("come")

    def go(self):
        self.calls.append("go")


class Machine:
    """A clock, and other work."""

    def __init__(self):
        self.now, self.crowded = 0.0, False

    def clock(self):
        return self.now

    def disturb(self):
        return self.crowded


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_sleep_beside_other_work_and_are_awake_after_it(two_threads):
    crowd, machine = Crowd(), Machine()
    waits = Waits(crowd, lambda: machine, machine.clock)
    seen = []
    for crowded in (False, True, True, False):
        machine.crowded = crowded
        machine.now += EVERY / 2
        waits.look()  # too early to tell
        machine.now += 0.6 * EVERY
        waits.look()
        seen.append(list(crowd.calls))
        crowd.calls.clear()
    assert seen == [["go"], ["come"], ["come"], ["go"]]
    waits.end()
    assert crowd.calls == ["go"]


def test_what_others_did_in_a_pause_changes_nothing(two_threads):
    crowd, machine = Crowd(), Machine()
    waits = Waits(crowd, lambda: machine, machine.clock)
    machine.now, machine.crowded = 60.0, True
    waits.look()
    assert crowd.calls == []


def test_a_single_thread_waits_for_no_other():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        crowd, machine = Crowd(), Machine()
        waits = Waits(crowd, lambda: machine, machine.clock)
        machine.now, machine.crowded = 1.1 * EVERY, True
        waits.look()
        assert crowd.calls == ["go"]
    finally:
        torch.set_num_threads(before)


def count_until(wanted):
    """The number of this process's threads, once it is what is wanted, or after some seconds."""
    end = time.monotonic() + 20
    while (found := psutil.Process().num_threads()) != wanted and time.monotonic() < end:
        time.sleep(0.02)
    return found


def needs_gomp():
    if threads.parallel_entry() is None:
        pytest.skip("torch does not run its threads by GNU's OpenMP here")


def test_a_crowd_comes_once_and_goes_whole():
    needs_gomp()
    before = psutil.Process().num_threads()
    crowd, all_there = threads.Crowd(), before + threads.usable_cores() + 1
    for _ in range(2):
        crowd.come()
        crowd.come()
        assert crowd.is_there
        assert count_until(all_there) == all_there
        crowd.go()
        crowd.go()
        assert not crowd.is_there
        assert count_until(before) == before


def test_the_threads_that_a_thread_computed_with_are_released():
    needs_gomp()
    counts = []

    def work():
        torch.set_num_threads(3)
        start = psutil.Process().num_threads()
        torch.ones(2000, 2000).exp_()
        with_pool = psutil.Process().num_threads()
        threads.release_pool()
        counts.append((with_pool - start, count_until(start) - start))
        torch.ones(2000, 2000).exp_()  # which needs them again
        threads.release_pool()

    before = torch.get_num_threads()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert counts == [(2, 0)]
