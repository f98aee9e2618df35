"""Threads, event loops and callbacks: nobody waits for anybody else's code, and nobody is cut."""

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest
import torch

import stet
from families import save_pair
from stet.core.errors import OptionError, StetError
from stet.load import load_pair
from stet.policies import RewardGuided

PROMPT = "how many"
LONG = {"max_new_tokens": 150, "ignore_eos": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("threads"))


@pytest.fixture(scope="module")
def pair(folders):
    with loaded(folders) as pair:
        yield pair


def loaded(folders, **settings):
    settings = {"max_batch": 4, "max_length": 200, "compile": False, **settings}
    return load_pair(folders["target"], folders["draft"], **settings)


def within(seconds, function):
    """What a function returns, run in a thread, so that a deadlock fails and does not hang."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs, or it raised"
    return found[0]


def settled(pair):
    """Rows in use, after everything that was asked before is done."""
    return pair.between_rounds(lambda: [r.rows_in_use for r in pair.engine.runners.values()])


# Streams


def test_a_stream_keeps_its_end_while_another_request_is_answered(pair):
    whole = pair.generate(PROMPT, **LONG)
    stream = pair.stream(PROMPT, **LONG)
    chunks = [next(stream)]
    pair.generate(["e f"], max_new_tokens=80, ignore_eos=True)
    chunks += list(stream)
    assert "".join(c.text for c in chunks) == whole.text
    assert [t.id for c in chunks for t in c.tokens] == whole.token_ids
    assert chunks[-1].result.text == whole.text
    assert [c.finish_reason for c in chunks[-2:]] == [None, "length"]


def test_slow_readers_of_streams_get_everything(pair):
    prompts = ["a", "b c", "d e f", "g", "how many"]
    wanted = {p: pair.generate(p, **LONG).text for p in prompts}

    async def read(prompt):
        pieces = []
        async for chunk in pair.astream(prompt, **LONG):
            pieces.append(chunk)
            await asyncio.sleep(0.02)
        assert pieces[-1].result.text == wanted[prompt]
        return "".join(piece.text for piece in pieces)

    async def everything():
        return await asyncio.gather(*(read(p) for p in prompts))

    assert asyncio.run(everything()) == [wanted[p] for p in prompts]


def test_a_stream_fails_with_its_own_error(pair):
    class Late(stet.Exact):
        name = "late"

        def verify(self, blocks):
            if int(blocks.history[0, 0]) > 20:
                raise RuntimeError("too late")
            return super().verify(blocks)

    seen = []
    with pytest.raises(StetError, match="too late") as caught:
        seen.extend(pair.stream(PROMPT, Late(), **LONG))
    assert seen[-1].finish_reason == "error"
    assert seen[-1].result.token_ids == [t.id for c in seen for t in c.tokens]
    assert (
        caught.value.result.token_ids
        == pair.generate(PROMPT, **LONG).token_ids[: len(caught.value.result.token_ids)]
    )
    assert len(caught.value.result.token_ids) > 20


# Callbacks


def test_a_callback_may_generate(pair):
    def nested():
        found = []

        def more(result):
            found.append(pair.generate(result.prompt, max_new_tokens=5).text)

        results = pair.generate(["a", "b c"], max_new_tokens=5, on_progress=more)
        return sorted(found) == sorted(r.text for r in results)

    assert within(60, nested)


def test_a_slow_callback_holds_nobody(pair):
    entered, answered = threading.Event(), threading.Event()
    waited = []

    def slow(_):
        entered.set()
        waited.append(answered.wait(60))

    slow_one = threading.Thread(
        target=lambda: pair.generate(["a"], max_new_tokens=5, on_progress=slow)
    )
    slow_one.start()
    assert entered.wait(60)
    within(60, lambda: pair.generate("b", max_new_tokens=5))
    answered.set()
    slow_one.join(60)
    assert waited == [True]


def test_a_callback_that_raises_fails_its_own_request_alone(pair):
    def refuse(result):
        if result.prompt == "a":
            raise ValueError("not this one")

    first, second = pair.generate(["a", "b c"], max_new_tokens=5, on_progress=refuse)
    assert "not this one" in first.error
    assert first.text == pair.generate("a", max_new_tokens=5).text
    assert second.error is None


def test_encoders_and_rewards_may_generate(pair):
    texts = []

    def ask():
        texts.append(pair.generate("a", max_new_tokens=3, ignore_eos=True).text)

    def encoder(candidates):
        ask()
        return [[float(len(text)), 1.0] for text in candidates]

    def reward(prompt, steps, candidate):
        ask()
        return 0.5

    several = {"candidates": 3, "temperature": 1.0, "step_tokens": 6}
    policies = (
        stet.SpecGuard(selector="medoid", encoder=encoder, **several),
        RewardGuided(reward=reward, threshold=0.5, step_tokens=6),
    )
    for policy in policies:
        texts.clear()
        (result,) = within(60, lambda p=policy: pair.generate([PROMPT], p, max_new_tokens=20))
        assert result.error is None
        assert len(texts) == len(result.trace.steps) > 0


def test_a_stream_that_the_garbage_collector_closes_within_a_round_holds_nobody(pair):
    left = []

    class Collects(stet.Exact):
        name = "collects"

        def verify(self, blocks):
            left.clear()
            gc.collect()
            return super().verify(blocks)

    def abandoned():
        stream = pair.stream(PROMPT, **LONG)
        next(stream)
        left.append(stream)
        del stream
        return pair.generate("a", Collects(), max_new_tokens=5)

    assert within(60, abandoned).text == pair.generate("a", max_new_tokens=5).text
    assert settled(pair) == [0, 0]


def test_a_policy_that_uses_its_own_pair_is_told_so(pair):
    class Nested(stet.Exact):
        name = "nested"

        def verify(self, blocks):
            pair.generate("a", max_new_tokens=2)
            return super().verify(blocks)

    (result,) = within(60, lambda: pair.generate([PROMPT], Nested(), max_new_tokens=5))
    assert "inside one of its own rounds" in result.error


# Event loops


@pytest.fixture
def busiest(monkeypatch):
    """The most CPU time that the event loop's thread spent in one go, in seconds."""
    most = [0.0]
    run = asyncio.Handle._run

    def timed(handle):
        began = time.thread_time()
        run(handle)
        most[0] = max(most[0], time.thread_time() - began)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    return most


def test_nothing_of_a_pair_keeps_an_event_loop_busy(folders, busiest):
    text = "how many " * 200_000

    async def everything():
        task = asyncio.create_task(pair.agenerate([PROMPT] * 6, **LONG))
        with pytest.raises(OptionError):
            await pair.agenerate(text)
        async for _ in pair.astream(PROMPT, **LONG):
            cancelled = asyncio.create_task(pair.agenerate(PROMPT, **LONG))
            await asyncio.sleep(0)
            cancelled.cancel()
        return await task

    # A new pair: its first request measures what passes cost.
    with loaded(folders) as pair:
        began = time.thread_time()
        pair.tokenizer(text)
        tokenising = time.thread_time() - began
        assert tokenising > 0.02, "the text is not long enough for this test"
        results = asyncio.run(everything())
    assert all(len(r.token_ids) == 150 for r in results)
    assert busiest[0] < tokenising / 2


def test_cancelling_does_not_wait_for_the_round(pair):
    inside, go_on = threading.Event(), threading.Event()

    class Stuck(stet.Exact):
        name = "stuck"

        def verify(self, blocks):
            inside.set()
            assert go_on.wait(60)
            return super().verify(blocks)

    async def cancelled():
        task = asyncio.create_task(pair.agenerate(PROMPT, Stuck(), max_new_tokens=5))
        while not inside.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The round is still under way.
        assert not go_on.is_set()

    try:
        within(60, lambda: asyncio.run(cancelled()) or True)
    finally:
        go_on.set()
    assert settled(pair) == [0, 0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio's own
def test_an_event_loop_that_is_gone_leaves_nothing_behind(pair):
    async def abandon():
        task = asyncio.create_task(pair.agenerate(PROMPT, **LONG))
        await asyncio.sleep(0.02)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(abandon())
    loop.close()
    assert pair.generate("a", max_new_tokens=5).text
    task._log_destroy_pending = False
    del task
    # It goes on to its end, or to the next piece of a stream, and finds nobody there.
    deadline = time.monotonic() + 60
    while settled(pair) != [0, 0] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert settled(pair) == [0, 0]


# Other threads


def test_the_number_of_cores_is_the_callers(pair):
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            pair.generate("a", max_new_tokens=2)
            assert pair.between_rounds(torch.get_num_threads) == count
    finally:
        torch.set_num_threads(before)


def test_a_compiler_at_work_elsewhere_changes_nothing(monkeypatch):
    bundled = stet.load_pair(compile=False)
    policy = stet.SpecGuard(signals=("grounding", "min_logprob"), whole=True)
    problem = "Sam has 34 pens. Kai has 12 more pens than Sam. How many pens do they have in all?"
    prompt = bundled.render([{"role": "user", "content": problem}])
    with bundled:
        (alone,) = bundled.generate([prompt], policy, max_new_tokens=60)
        # True for the whole process while any thread compiles.
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        again = stet.load_pair(compile=False)
        with again:
            (beside,) = again.generate([prompt], policy, max_new_tokens=60)
    assert beside.error is None
    assert beside.token_ids == alone.token_ids
    assert [s.signals for s in beside.trace.steps] == [s.signals for s in alone.trace.steps]


# Ends


def threads():
    return {t for t in threading.enumerate() if t.name.startswith("stet")}


def test_a_closed_pair_has_no_threads_and_generates_no_more(folders):
    before = threads()
    with loaded(folders, compile=True) as pair:
        pair.generate("a", max_new_tokens=5)
        own = threads() - before
        assert own
    assert not [thread for thread in own if thread.is_alive()]
    for use in (lambda: pair.generate("a"), lambda: list(pair.stream("a"))):
        with pytest.raises(StetError, match="was closed; load it anew"):
            use()

    async def stream():
        return [chunk async for chunk in pair.astream("a")]

    for coroutine in (pair.agenerate("a"), stream()):
        with pytest.raises(StetError, match="was closed; load it anew"):
            asyncio.run(coroutine)
    pair.close()


@pytest.mark.parametrize("moment", ["its work", "its results"])
def test_a_task_whose_pair_is_closed_under_it_gets_its_results(folders, monkeypatch, moment):
    pair = loaded(folders)
    # All that helps is busy when the pair is closed.
    inside, go_on = threading.Semaphore(0), threading.Event()

    def busy():
        inside.release()
        go_on.wait(60)

    async def closed():
        task = asyncio.create_task(pair.agenerate([PROMPT, "a"], "target", **LONG))
        while not pair.engine.running:
            await asyncio.sleep(0.001)
        if moment == "its results":
            for _ in range(4):
                pair._helpers.submit(busy)
                await asyncio.to_thread(inside.acquire)
        shutdown = pair._helpers.shutdown

        def later(*args, **settings):
            if moment == "its results":  # by now its results are asked for, and wait their turn
                time.sleep(0.5)
            shutdown(*args, **settings)
            go_on.set()

        monkeypatch.setattr(pair._helpers, "shutdown", later)
        await asyncio.to_thread(pair.close)
        return await task

    results = asyncio.run(closed())
    assert [r.finish_reason for r in results] == ["error", "error"]
    assert all("closed before this request had ended" in r.error for r in results)


def test_what_is_under_way_ends_with_a_sentence_when_the_pair_is_closed(folders):
    pair = loaded(folders)
    stream = pair.stream(PROMPT, max_new_tokens=190, ignore_eos=True)
    inside, go_on = threading.Event(), threading.Event()

    class Stuck(stet.Exact):
        name = "stuck"

        def verify(self, blocks):
            inside.set()
            go_on.wait(60)
            return super().verify(blocks)

    found = []
    worker = threading.Thread(
        target=lambda: found.append(pair.generate([PROMPT], Stuck(), **LONG)), daemon=True
    )
    worker.start()
    assert inside.wait(60)
    closing = threading.Thread(target=pair.close)
    closing.start()
    while not pair._thread._closed:
        time.sleep(0.01)
    go_on.set()
    closing.join(60)
    worker.join(60)
    ((result,),) = found
    assert result.finish_reason == "error"
    assert "closed before this request had ended" in result.error
    assert len(result.token_ids) >= 1
    with pytest.raises(StetError, match="was closed"):
        next(stream)


def test_a_pair_that_nobody_holds_takes_its_thread_with_it(folders):
    before = threads()
    pair = loaded(folders)
    pair.generate("a", max_new_tokens=5)
    (thread,) = threads() - before
    gone = weakref.ref(pair)
    del pair
    gc.collect()
    assert gone() is None
    thread.join(60)
    assert not thread.is_alive()


def test_a_pair_of_another_process_is_refused(pair, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(StetError, match="in another process"):
        pair.generate("a", max_new_tokens=2)


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.0, 1.0, 4.0])
def test_a_program_ends_cleanly_while_passes_are_compiled(folders, wait):
    code = f"""
        import sys, time
        import stet
        pair = stet.load_pair({str(folders["target"])!r}, {str(folders["draft"])!r},
                              max_length=200, compile=True)
        pair.warm_up(timeout=0.01)
        stream = pair.stream("a", max_new_tokens=150, ignore_eos=True)
        next(stream)
        time.sleep({wait})
        print("the end")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout.strip()) == (0, "the end"), done.stderr
    assert "terminate" not in done.stderr
    assert "Traceback" not in done.stderr
