"""What a batch that fails costs: memory that ran out halves it, a lost device ends everything."""

import math
import threading
import weakref
from dataclasses import replace

import pytest
import torch

import tiny
from stet.core.errors import CapacityError, StetError
from stet.core.limits import Limits
from stet.engine.failures import DeviceError, is_device_error, is_out_of_memory, isolate
from stet.engine.rows import Rows
from stet.engine.runner import Runner
from stet.pair import Pair
from stet.policies import Exact
from stet.programs import autoregressive
from tiny import llama, near

TARGET = llama()
DRAFT = near(TARGET, 0.05)
LOST = "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"


def exhausted():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def exact(n, policy=None):
    return tiny.request([1 + n, 2, 3], policy or Exact(), Limits(max_new_tokens=10))


def plain(n):
    return tiny.greedy(TARGET, [1 + n, 2, 3], 10)


@pytest.mark.parametrize(
    ("error", "memory", "device"),
    [
        (exhausted(), True, False),
        (MemoryError(), True, False),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: ..."),
            True,
            False,
        ),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            True,
            False,
        ),
        (RuntimeError(LOST), False, True),
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
            False,
            True,
        ),
        (RuntimeError("HIP error: invalid device function"), False, True),
        (RuntimeError("shapes do not match"), False, False),
        (ValueError("CUDA error: not from torch"), False, False),
        (IndexError("index out of range in self"), False, False),
    ],
)
def test_errors_are_told_apart(error, memory, device):
    assert (is_out_of_memory(error), is_device_error(error)) == (memory, device)


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 16])
def test_out_of_memory_halves_the_batch(fits):
    sizes = []

    def run(items):
        sizes.append(len(items))
        if len(items) > fits:
            raise exhausted()
        return [item * 10 for item in items]

    assert isolate(range(16), run) == [item * 10 for item in range(16)]
    worked = [size for size in sizes if size <= fits]
    assert len(worked) == 16 / 2 ** math.floor(math.log2(fits))
    assert sizes[0] == 16


def test_another_error_is_one_members_own():
    def run(items):
        if 3 in items:
            raise ValueError("three")
        return items

    found = isolate(range(5), run)
    assert [f for f in found if not isinstance(f, Exception)] == [0, 1, 2, 4]
    assert str(found[3]) == "three"


def test_what_a_failed_pass_held_is_free_before_the_next_one():
    held = []

    def run(items):
        assert not any(ref() is not None for ref in held)
        if len(items) > 1:
            big = torch.zeros(10)
            held.append(weakref.ref(big))
            raise exhausted()
        return items

    assert isolate([1, 2, 3], run) == [1, 2, 3]
    assert held


@pytest.fixture
def limited(monkeypatch):
    """Runners whose passes raise when they have too many rows."""
    forward = Runner.forward
    sizes = []

    def limit(role, rows, width=0):
        def run(self, given, tokens, *rest, **more):
            if self.model.role == role and len(given) > rows and tokens.shape[1] >= width:
                sizes.append(len(given))
                raise exhausted()
            return forward(self, given, tokens, *rest, **more)

        monkeypatch.setattr(Runner, "forward", run)
        return sizes

    return limit


@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_batch_that_does_not_fit_is_run_in_halves(limited, role):
    sizes = limited(role, 2)
    machine = tiny.engine(TARGET, DRAFT)
    assert tiny.run(machine, [exact(n) for n in range(6)]) == [plain(n) for n in range(6)]
    assert 6 in sizes
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())


def test_a_request_that_does_not_fit_alone_fails_alone(limited):
    machine = tiny.engine(TARGET, DRAFT)
    limited("target", 0, width=6)
    long = tiny.request([1, *range(2, 40)], Exact(), Limits(max_new_tokens=5))
    short = tiny.request([3], "target", Limits(max_new_tokens=5), program=plainly)
    for request in (long, short):
        machine.submit(request)
    while machine.busy:
        machine.step()
    assert isinstance(long.error, CapacityError)
    assert "Memory ran out for this request alone" in str(long.error)
    assert short.error is None
    assert short.sequence.answer == tiny.greedy(TARGET, [3], 5)


def plainly(sequence, _):
    return autoregressive(sequence, Exact())


def test_a_device_error_ends_everything_and_says_so(monkeypatch):
    pair = Pair(tiny.loaded(TARGET), tiny.loaded(DRAFT, "draft"), max_length=64, compile=False)
    pair.tokenizer = None
    machine = pair.engine
    requests = [exact(n) for n in range(3)]
    for request in requests:
        machine.submit(request)
    machine.step()

    def lost(*_, **__):
        raise RuntimeError(LOST)

    monkeypatch.setattr(Runner, "forward", lost)
    # Nothing may be tried on the device again, not even to move a row.
    monkeypatch.setattr(Runner, "release", lost)
    machine.step()
    for request in requests:
        assert isinstance(request.error, DeviceError)
        assert "device-side assert triggered" in str(request.error)
        assert "loaded anew" in str(request.error)
        assert "TORCH_USE_CUDA_DSA" not in str(request.error)
        assert request.done
        assert request.sequence.finish_reason == "error"
    assert not machine.busy
    with pytest.raises(StetError, match="cannot be used any more: The device failed"):
        pair._thread.submit([exact(0)])


@pytest.mark.parametrize("where", ["a round", "between rounds"])
def test_a_device_that_tells_of_its_failure_when_a_row_is_moved_leaves_nobody_waiting(
    monkeypatch, where
):
    pair = Pair(tiny.loaded(TARGET), tiny.loaded(DRAFT, "draft"), max_length=64, compile=False)
    pair.tokenizer = None
    ended = threading.Semaphore(0)
    long = Limits(max_new_tokens=50)
    requests = [tiny.request([1 + n, 2, 3], Exact(), long) for n in range(3)]
    for request in requests:
        request.on_end = lambda _: ended.release()

    def lost(*_, **__):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Rows, "release", lost)
    if where == "a round":
        requests[0].sequence.limits = replace(long, max_new_tokens=2)
    else:
        requests[0].on_growth = lambda request: pair._thread.cancel([request])
    pair._thread.submit(requests)
    for _ in requests:
        assert ended.acquire(timeout=30), "somebody waits for ever"
    failed = [request for request in requests if request.error is not None]
    assert len(failed) >= 2
    assert {type(request.error) for request in failed} == {DeviceError}
    assert "illegal memory access" in str(failed[0].error)
    with pytest.raises(StetError, match="cannot be used any more: The device failed"):
        pair._thread.submit([exact(0)])
    pair.close()


def test_a_fault_outside_of_any_request_ends_those_at_work_alone(monkeypatch):
    machine = tiny.engine(TARGET, DRAFT)
    requests = [exact(n) for n in range(3)]
    for request in requests:
        machine.submit(request)
    machine.step()
    with monkeypatch.context() as patched:
        patched.setattr(machine._prefill, "run", lambda *_: 1 / 0)
        machine.step()
    assert [type(request.error) for request in requests] == [ZeroDivisionError] * 3
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())
    assert tiny.run(machine, [exact(4)]) == [plain(4)]
