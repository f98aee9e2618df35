"""A target in another process, behind a completions endpoint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

import stet
import tiny
from stet import RemoteTarget, load_pair
from stet.bundled import DRAFT, TARGET, generate
from stet.core import trace
from stet.core.errors import OptionError, StetError
from stet.pair import Pair
from stet.policies import SpecGuard
from stet.programs.remote_writer import WRITTEN
from stet.programs.target_side import CUT_SHORT
from stet.remote.client import LARGEST, LONGEST_PAUSE, RemoteClient
from stet.remote.completion import Completion, Spoken, completion_of, spoken_of
from stet.remote.connections import RemoteError
from stet.remote.explanations import message_of
from stet.remote.target import is_local
from stet.requests.delivery import deliver

pytestmark = pytest.mark.slow

MODEL = "bundled-target"
ACCEPT, REWRITE, SOMETIMES = (SpecGuard(threshold=t) for t in (0.0, 1.0, 0.6))
FILE = Path(__file__).with_name("server.py")


@dataclass
class Server:
    """A running server process."""

    process: subprocess.Popen
    port: int
    pairs: list[Pair] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def tell(self, **wishes: Any) -> None:
        """Set what it does; forgets what it has seen."""
        body = json.dumps(wishes).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/control", body)
        urllib.request.urlopen(request, timeout=60).read()

    def seen(self) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=60) as answer:
            return json.load(answer)

    def target(self, **more: Any) -> RemoteTarget:
        return RemoteTarget(self.url, MODEL, **({"backoff": 0.02} | more))

    def pair(self, **more: Any) -> Pair:
        """A pair that is closed when the test ends."""
        target = self.target(**more)
        pair = load_pair(target, DRAFT, dtype="float32", max_length=600, compile=False)
        self.pairs.append(pair)
        return pair

    def close_pairs(self) -> None:
        while self.pairs:
            self.pairs.pop().close()


@contextmanager
def started(*options: str) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, str(FILE), *options], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        server = Server(process, int(process.stdout.readline()))
        yield server
        server.close_pairs()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with started() as server:
        yield server


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    running.tell()
    yield running
    running.close_pairs()


@pytest.fixture(scope="module")
def local() -> Pair:
    return load_pair(TARGET, DRAFT, dtype="float32", max_length=600, compile=False)


@pytest.fixture(scope="module")
def prompts(local: Pair) -> list[list[int]]:
    problems = generate("stories", "calibration", 6)
    return [local.render([{"role": "user", "content": p.text}]) for p in problems]


# Texts


@pytest.mark.parametrize("server_says", ["why", "nothing", "everything"])
@pytest.mark.parametrize("policy", [REWRITE, SOMETIMES], ids=["rewrite", "sometimes"])
def test_greedy_texts_are_those_of_the_same_pair_here(
    server: Server, local: Pair, prompts: list[list[int]], policy: SpecGuard, server_says: str
):
    server.tell(says_why=server_says == "why", keeps_stop=server_says == "everything")
    # Servers that say nothing are asked for a token more; for fewer prompts, as that takes time.
    asked = prompts if server_says == "why" else prompts[:2]
    away = server.pair().generate(asked, policy, max_new_tokens=200)
    here = local.generate(asked, policy, max_new_tokens=200)
    for one, other in zip(away, here, strict=True):
        assert one.error is None
        assert one.text == other.text
        assert one.finish_reason == other.finish_reason
        assert one.token_ids == other.token_ids
        decisions = [[(s.decision, s.tokens) for s in r.trace.steps] for r in (one, other)]
        assert decisions[0] == decisions[1]


def test_a_candidate_that_breaks_off_is_rejected_whatever_the_policy_says(
    server: Server, prompts: list[list[int]]
):
    pair = server.pair()
    policy = tiny.Stumps(step_tokens=128)
    (result,) = pair.generate(prompts[:1], policy, max_new_tokens=60, draft_length=2)
    target = pair.generate(prompts[:1], "target", max_new_tokens=60)[0]
    assert {(s.decision, s.reason) for s in result.trace.steps} == {("rewritten", CUT_SHORT)}
    assert result.text == target.text


def test_a_draft_that_goes_in_circles_is_stopped_and_the_target_is_not(
    server: Server, local: Pair, prompts: list[list[int]]
):
    pair = server.pair()
    for threshold, looping in ((0.0, True), (1.0, False)):
        # Where one step of the draft's is one too many, the first that stands is a circle.
        policy = SpecGuard(threshold=threshold, loop_after=1)
        away, here = (p.generate(prompts[:1], policy, max_new_tokens=60)[0] for p in (pair, local))
        assert (away.finish_reason == "loop") == looping
        assert (len(away.trace.steps) == 1) == looping
        assert (away.text, away.finish_reason) == (here.text, here.finish_reason)


def test_penalties_of_the_answer_are_the_servers(
    server: Server, local: Pair, prompts: list[list[int]]
):
    pair, penalties = server.pair(), {"frequency_penalty": 0.5, "presence_penalty": -0.25}
    options: dict[str, Any] = {"max_new_tokens": 40, **penalties}
    away, here = (p.generate(prompts[:1], "target", **options)[0] for p in (pair, local))
    assert away.text == here.text
    pair.generate(prompts[:1], REWRITE, **options)
    for body in server.seen()["bodies"]:
        assert {name: body[name] for name in penalties} == penalties
    server.tell()
    pair.generate(prompts[:1], REWRITE, max_new_tokens=10)
    assert not any(set(body) & set(penalties) for body in server.seen()["bodies"])


def test_what_is_sent_is_the_text_so_far(server: Server, local: Pair, prompts: list[list[int]]):
    result = server.pair().generate([prompts[0]], REWRITE, max_new_tokens=60)[0]
    bodies = server.seen()["bodies"]
    start = local.tokenizer.decode(prompts[0])
    for body, step in zip(bodies, result.trace.steps, strict=True):
        before = local.tokenizer.decode(result.token_ids[: step.position])
        assert body["prompt"] == start + before
        assert body["model"] == MODEL
        assert (body["stop"], body["temperature"], body["top_p"]) == (["\n"], 0.0, 1.0)
        assert 1 <= body["max_tokens"] <= 60 - step.position
        assert "seed" not in body
        assert body["stream"] is False
    assert server.seen()["keys"] == [None] * len(bodies)


def test_either_model_alone(server: Server, local: Pair, prompts: list[list[int]]):
    pair = server.pair()
    for policy in ("target", "draft"):
        away = pair.generate(prompts[:3], policy, max_new_tokens=100)
        here = local.generate(prompts[:3], policy, max_new_tokens=100)
        assert [r.text for r in away] == [r.text for r in here]
        assert [r.finish_reason for r in away] == [r.finish_reason for r in here]
    text = here[0].text
    for stop in (text[5:9], [text[:3], "never"]):
        stopped = pair.generate([prompts[0]], "target", stop=stop, max_new_tokens=100)[0]
        same = local.generate([prompts[0]], "target", stop=stop, max_new_tokens=100)[0]
        assert (stopped.text, stopped.finish_reason) == (same.text, same.finish_reason)
    short = pair.generate([prompts[0]], "target", max_new_tokens=7)[0]
    assert (len(short.token_ids), short.finish_reason) == (7, "length")


@pytest.mark.parametrize(
    "delimiter", ["sentence", ("\n", "\n\n"), lambda t: t.find("\n") + 1 or None]
)
def test_delimiters_of_every_kind(
    server: Server, local: Pair, prompts: list[list[int]], delimiter: Any
):
    # They end where tokens do: behind a text that is cut elsewhere the target writes others.
    policy = SpecGuard(threshold=1.0, delimiter=delimiter, step_tokens=200)
    away = server.pair().generate(prompts[:2], policy, max_new_tokens=200)
    plain = local.generate(prompts[:2], "target", max_new_tokens=200)
    assert [r.text for r in away] == [r.text for r in plain]


def test_sampled_candidates_of_the_target(server: Server, prompts: list[list[int]]):
    policy = SpecGuard(
        candidates=2, target_candidates=3, temperature=0.9, threshold=1.0, selector="vote"
    )
    pair = load_pair(
        server.target(), DRAFT, dtype="float32", max_length=600, max_rows=9, compile=False
    )
    result, again = (
        pair.generate([prompts[0]], policy, max_new_tokens=60, seed=4)[0] for _ in range(2)
    )
    assert result.text == again.text
    for step in result.trace.steps:
        assert len(step.target_candidates) == 3
        assert step.target_tokens >= step.tokens
    seeds = [b["seed"] for b in server.seen()["bodies"]]
    assert len(set(seeds)) == len(seeds) // 2
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_records_say_what_happened(server: Server, prompts: list[list[int]], tmp_path: Path):
    results = server.pair().generate(prompts, SOMETIMES, max_new_tokens=200, probabilities=True)
    for result in results:
        position = accepted = 0
        for step in result.trace.steps:
            assert step.position == position
            span = result.tokens[position : position + step.tokens]
            position += step.tokens
            accepted += step.decision == "accepted"
            if step.decision == "accepted":
                assert {t.origin for t in span} == {"draft"}
            else:
                assert {(t.origin, t.reason) for t in span} == {("target", WRITTEN)}
                assert step.target_tokens > 0
                assert step.target_seconds > 0
            assert all((t.p_draft is None) == (t.origin == "target") for t in span)
        assert position == len(result.token_ids) == result.counters.emitted_tokens
        assert result.counters.accepted_steps == accepted
        assert result.counters.target_passes == 0
        seconds = sum(s.target_seconds for s in result.trace.steps)
        assert seconds == pytest.approx(result.counters.target_seconds)
        assert result.trace.settings.target["url"] == server.url
    trace.write([r.trace for r in results], tmp_path / "trace.jsonl")
    assert len(trace.read(tmp_path / "trace.jsonl")) == len(results)


# Faults


FAULTS = {
    "overloaded": [{"status": 503}, {"status": 500}],
    "busy": [{"retry_after": "0.05"}],
    "busy until": [{"retry_after": "Mon, 01 Jan 2024 00:00:00 GMT"}],
    "garbage": [{"body": "<html>"}, {"body": "{}"}, {"body": '{"choices": []}'}],
    "odd": [{"body": '{"choices": [{"text": 3, "finish_reason": "stop"}]}'}],
    "broken off": [{"body": '{"choices": [{"text": "a", "finish_reason": "abort"}]}'}],
    "dropped": [{"drop": True}, {"drop": True}],
    "slow": [{"wait": 1.5}],
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_another_try_mends_is_tried_again(
    server: Server, local: Pair, prompts: list[list[int]], name: str
):
    server.tell(faults=FAULTS[name])
    pair = server.pair(timeout=1.0 if name == "slow" else 60.0)
    result = pair.generate([prompts[0]], REWRITE, max_new_tokens=200)[0]
    assert result.error is None
    assert result.text == local.generate([prompts[0]], REWRITE, max_new_tokens=200)[0].text
    bodies = server.seen()["bodies"]
    tries = len(FAULTS[name])
    assert len(bodies) == tries + len(result.trace.steps)
    assert all(body == bodies[0] for body in bodies[: tries + 1])


@pytest.mark.parametrize(
    ("faults", "message", "tries"),
    [
        ([{"status": 503}] * 3, "failed 3 times .*status 503: 'told to", 3),
        ([{"drop": True}] * 3, "failed 3 times", 3),
        ([{"body": "no"}] * 3, "failed 3 times .*no completion: 'no'", 3),
        ([{"retry_after": "3600"}], "no answer within 30 s in all .*429", 1),
        ([{"status": 400}], "refuses the request .status 400: 'told to", 1),
        ([{"status": 403}], "refuses the key", 1),
        ([{"status": 404}], "does not know the address or the model", 1),
        ([{"status": 307, "location": "http://127.0.0.1:9/"}], "another address", 1),
        ([{"body": " " * 2**16, "times": LARGEST // 2**16 + 1}], "more than 1 MiB", 1),
    ],
)
def test_what_cannot_be_mended_ends_the_request_and_keeps_its_steps(
    server: Server, prompts: list[list[int]], faults: list[Any], message: str, tries: int
):
    pair = server.pair(retries=2, total_timeout=30.0)
    whole = pair.generate([prompts[0]], REWRITE, max_new_tokens=60)[0]
    server.tell(faults=[{}, {}, *faults])
    result = pair.generate([prompts[0]], REWRITE, max_new_tokens=60)[0]
    assert result.finish_reason == "error"
    assert re.search(message, result.error or "")
    assert len(result.trace.steps) == 2
    assert result.text
    assert whole.text.startswith(result.text)
    assert len(server.seen()["bodies"]) == 2 + tries
    assert all(runner.rows_in_use == 0 for runner in pair.engine.runners.values())


def test_a_single_prompt_that_fails_carries_what_was_written(
    server: Server, local: Pair, prompts: list[list[int]]
):
    server.tell(faults=[{}, {"status": 400}])
    text = local.tokenizer.decode(prompts[0])
    with pytest.raises(RemoteError) as caught:
        server.pair().generate(text, REWRITE)
    assert caught.value.result is not None
    assert len(caught.value.result.trace.steps) == 1
    assert caught.value.result.error == str(caught.value)


def test_a_server_that_dies_loses_no_finished_step(local: Pair, prompts: list[list[int]]):
    with started() as mortal:
        pair = mortal.pair(retries=1)
        mortal.tell(faults=[{}, {}, {"die": True}])
        result = pair.generate([prompts[0]], REWRITE, max_new_tokens=100)[0]
        assert mortal.process.wait(60) == 1
        whole = local.generate([prompts[0]], REWRITE, max_new_tokens=100)[0]
        assert len(result.trace.steps) == 2
        assert result.text
        assert whole.text.startswith(result.text)
        assert "failed 2 times" in (result.error or "")
        # What needs no target goes on.
        assert pair.generate([prompts[0]], "draft", max_new_tokens=10)[0].error is None


def test_a_failure_harms_nobody_else(server: Server, local: Pair, prompts: list[list[int]]):
    server.tell(faults=[{"status": 400}])
    results = server.pair().generate(prompts[:3], REWRITE, max_new_tokens=200)
    assert sum(r.error is not None for r in results) == 1
    here = local.generate(prompts[:3], REWRITE, max_new_tokens=200)
    for away, same in zip(results, here, strict=True):
        assert away.text == ("" if away.error else same.text)


# Words for an end


@pytest.mark.parametrize("word", ["eos_token", "end", "stop_sequence", "", "a new word"])
def test_a_server_with_its_own_word_for_the_end_loses_no_text(
    server: Server, local: Pair, prompts: list[list[int]], word: str
):
    server.tell(word=word, says_why=False)
    pair = server.pair(retries=0)
    policy = "target" if word in ("eos_token", "end") else REWRITE
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        results = pair.generate(prompts[:2], policy, max_new_tokens=200)
    here = local.generate(prompts[:2], policy, max_new_tokens=200)
    assert [(r.text, r.finish_reason, r.error) for r in results] == [
        (r.text, r.finish_reason, None) for r in here
    ]
    about = [str(w.message) for w in told if "for the reason" in str(w.message)]
    assert len(about) == (word == "a new word")


def test_a_text_that_a_filter_withholds_is_told_and_not_asked_for_again(
    server: Server, prompts: list[list[int]]
):
    withheld = {"choices": [{"text": "a", "finish_reason": "content_filter"}]}
    server.tell(faults=[{}, {"body": json.dumps(withheld)}])
    result = server.pair().generate([prompts[0]], REWRITE, max_new_tokens=60)[0]
    assert "content filter" in (result.error or "")
    assert len(result.trace.steps) == 1
    assert len(server.seen()["bodies"]) == 2


# Many at a time


def test_so_many_requests_at_a_time_and_no_more(server: Server, prompts: list[list[int]]):
    for limit in (1, 3):
        server.tell(slow=0.05)
        pair = server.pair(concurrency=limit)
        pair.generate(prompts, REWRITE, max_new_tokens=20)
        assert server.seen()["most"] == limit


def test_others_go_on_while_the_target_is_asked(server: Server, prompts: list[list[int]]):
    server.tell(slow=1.0)
    pair = server.pair()
    asked, drafted = (
        pair._jobs([prompts[0]], policy, {"max_new_tokens": 20}) for policy in (REWRITE, "draft")
    )
    began = time.monotonic()
    events = deliver(pair._thread, [*asked, *drafted], stream=False)
    first, _ = next(events)
    assert first is drafted[0]
    assert time.monotonic() - began < 1.0 or not asked[0].request.done
    assert not asked[0].request.sequence.steps
    events.close()
    rows = pair.between_rounds(lambda: [r.rows_in_use for r in pair.engine.runners.values()])
    assert rows == [0] * len(rows)


def test_a_request_that_runs_out_of_time_ends_at_once(server: Server, prompts: list[list[int]]):
    server.tell(faults=[{}, {"wait": 5.0}])
    began = time.monotonic()
    result = server.pair().generate([prompts[0]], REWRITE, timeout=2.0)[0]
    assert (result.finish_reason, result.error) == ("timeout", None)
    assert len(result.trace.steps) == 1
    assert time.monotonic() - began < 4.5


def connections(server: Server) -> int:
    """How many connections to the server this process holds."""
    process = psutil.Process()
    # psutil 6 renamed it.
    found = getattr(process, "net_connections", None) or process.connections
    found = found("tcp")
    return sum(bool(c.raddr) and c.raddr.port == server.port for c in found)


def test_a_closed_pair_holds_no_connections(server: Server, prompts: list[list[int]]):
    before = connections(server)
    with server.pair() as pair:
        assert pair.generate(prompts[0], REWRITE, max_new_tokens=20).error is None
        assert connections(server) > before
    assert connections(server) <= before
    # Nor where an answer is on its way, which nobody waits for any more.
    server.tell(slow=10.0)
    pair = server.pair()
    with ThreadPoolExecutor(1) as asking:
        asked = asking.submit(pair.generate, [prompts[0]], REWRITE)
        while connections(server) <= before and not asked.done():
            time.sleep(0.05)
        began = time.monotonic()
        pair.close()
        (result,) = asked.result(timeout=60)
    assert time.monotonic() - began < 8.0
    assert "closed before this request had ended" in (result.error or "")
    assert connections(server) <= before


def test_a_proxy_is_not_asked_for_this_machine(
    server: Server, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    result = server.pair(retries=0).generate([prompts[0]], REWRITE, max_new_tokens=5)[0]
    assert (result.error, len(server.seen()["bodies"])) == (None, 1)


# Keys


def test_a_key_is_sent_and_shown_nowhere(
    server: Server, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    for key, given in (("sk-from-the-environment", {}), ("sk-given", {"api_key": "sk-given"})):
        server.tell(faults=[{}, {"status": 400}])
        pair = server.pair(**given)
        result = pair.generate([prompts[0]], REWRITE)[0]
        assert set(server.seen()["keys"]) == {f"Bearer {key}"}
        assert "told to; Bearer ***" in (result.error or "")
        assert key not in result.trace.to_json() + repr(pair) + repr(pair.target)


# What is refused


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org/v1", "not encrypted"),
        ("http://127.0.0.1.example.org/v1", "not encrypted"),
        ("http://[2001:db8::1]/v1", "not encrypted"),
        ("https://user:secret@example.org/v1", "as api_key"),
        ("https://example.org/v1?key=1", "no [?]"),
        ("ftp://example.org", "no address"),
        ("https://", "no address"),
        ("https://host:port/v1", "invalid"),
    ],
)
def test_addresses_that_are_refused(url: str, message: str):
    with pytest.raises(OptionError, match=message) as caught:
        RemoteTarget(url, "m")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://host", "https://host/v1"),
        ("https://host/", "https://host/v1"),
        ("https://host:8000/v1/", "https://host:8000/v1"),
        ("https://host/v1/completions", "https://host/v1"),
        ("https://host/v1/chat/completions/", "https://host/v1"),
        ("https://host/api/v3", "https://host/api/v3"),
        (" https://host/v1\n", "https://host/v1"),
    ],
)
def test_an_address_in_any_of_its_forms(url: str, base: str):
    assert RemoteTarget(url, "m").url == base


def test_an_empty_key_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-another-server")
    assert RemoteTarget("https://h/v1", "m").key == "sk-for-another-server"
    assert RemoteTarget("https://h/v1", "m", api_key="").key is None


def test_addresses_that_are_taken():
    for url in ("http://127.0.0.1:8000/v1", "http://localhost/v1/", "http://[::1]/v1"):
        assert RemoteTarget(url, "m").url == url.rstrip("/")
        assert is_local(url)
    assert not is_local("https://example.org/v1")
    assert RemoteTarget("http://example.org/v1/", "m", allow_http=True).url.endswith("/v1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ""},
        {"timeout": 0},
        {"total_timeout": -1},
        {"retries": -1},
        {"backoff": -1},
        {"concurrency": 0},
        {"api_key": "two\nlines"},
    ],
)
def test_settings_that_are_refused(wrong: dict[str, Any]):
    with pytest.raises(OptionError):
        RemoteTarget(**({"url": "https://h/v1", "model": "m"} | wrong))


def test_what_a_remote_target_cannot_do_is_refused(server: Server, prompts: list[list[int]]):
    pair = server.pair()
    for policy in ("exact", "ensemble", "cascade"):
        with pytest.raises(OptionError, match="does not give; use a step policy"):
            pair.generate(prompts, policy)
    for option in ({"top_k": 5}, {"logprobs": 2}, {"logit_bias": {1: 1.0}}, {"min_p": 0.1}):
        with pytest.raises(OptionError, match="is not available with a remote target"):
            pair.generate(prompts, REWRITE, **option)
    with pytest.raises(OptionError, match="cannot be measured"):
        _ = pair.costs
    with pytest.raises(OptionError, match="needs a draft model"):
        load_pair(server.target(), "lookup")
    with pytest.raises(OptionError, match="RemoteTarget"):
        load_pair(server.url, DRAFT)
    with pytest.raises(StetError, match="another pair"):
        pair.generate(prompts, SpecGuard(pair="0123"))
    assert pair.generate([prompts[0]], SpecGuard(pair=pair.fingerprint))[0].error is None
    with pytest.raises(OptionError, match="a target that is loaded here"):
        pair.read("a")


# The client by itself


def test_log_probabilities_of_either_endpoint_are_read():
    legacy = {
        "tokens": ["a", " b"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {" b": -0.5, " c": float("-inf")}],
    }
    assert spoken_of(legacy) == [
        Spoken("a", None),
        Spoken(" b", -0.5, {" b": -0.5, " c": -9999.0}),
    ]
    one = {"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "b", "logprob": -2.0}]}
    assert spoken_of({"content": [one]}) == [Spoken("a", -1.0, {"b": -2.0})]
    for wrong in (
        None,
        3,
        {},
        {"tokens": ["a"], "token_logprobs": []},
        {"tokens": ["a"], "token_logprobs": [float("nan")]},
        {"tokens": ["a"], "token_logprobs": ["much"]},
        {"content": [{"token": "a"}]},
    ):
        assert spoken_of(wrong) is None


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {"choices": "x"},
        {"choices": [{}]},
        {"choices": []},
        {"choices": [{"text": None, "finish_reason": None}]},
        {"choices": [{"text": ""}]},
        {"choices": [{"text": 3, "finish_reason": "stop"}]},
        {"error": {"message": "overloaded", "code": 429}},
        {"choices": [{"text": "\ud83d", "finish_reason": "stop"}]},
    ],
)
def test_what_is_no_completion(answer: Any):
    assert completion_of(answer) is None


@pytest.mark.parametrize(
    ("reason", "ending", "stopped_at", "unknown"),
    [
        ("stop", "stop", None, None),
        ("eos", "stop", "", None),
        ("eos_token", "stop", "", None),
        ("eosFound", "stop", "", None),
        ("end", "stop", "", None),
        ("end_turn", "stop", "", None),
        ("stop_sequence", "stop", None, None),
        ("STOP", "stop", None, None),
        ("length", "length", None, None),
        ("MAX_TOKENS", "length", None, None),
        ("max_new_tokens", "length", None, None),
        (None, "stop", None, None),
        ("", "stop", None, ""),
        ("something new", "stop", None, "something new"),
        (7, "stop", None, "7"),
        ("content_filter", "withheld", None, None),
        ("abort", "failed", None, None),
    ],
)
def test_every_word_for_an_end_is_one(
    reason: Any, ending: Any, stopped_at: str | None, unknown: str | None
):
    answer = {"choices": [{"text": "a", "finish_reason": reason}]}
    assert completion_of(answer) == Completion("a", ending, stopped_at, None, unknown)


def test_without_a_reason_the_count_tells_of_the_limit():
    for choice in ({"text": "a"}, {"text": "a", "finish_reason": None}):
        answer = {"choices": [choice], "usage": {"completion_tokens": 8}}
        for most, reason in ((8, "length"), (9, "stop"), (None, "stop")):
            found = completion_of(answer, most)
            assert found is not None
            assert found.finish_reason == reason


def test_what_servers_leave_out_or_put_elsewhere():
    stop = {"finish_reason": "stop"}
    assert completion_of({"choices": [{**stop, "text": None}]}) == Completion("", "stop")
    # The model's end at once, from a server without a word for it.
    nothing = {"text": "", "finish_reason": None}
    counted = {"choices": [nothing], "usage": {"completion_tokens": 1}}
    assert completion_of(counted, 1) == Completion("", "stop", None, 1)
    chat = {"choices": [{**stop, "message": {"role": "assistant", "content": "a"}}]}
    assert completion_of(chat) == Completion("a", "stop")
    for usage in (3, None, [], {}):
        assert completion_of({"choices": [{**stop, "text": "a"}], "usage": usage}) == Completion(
            "a", "stop"
        )
    matched = {"choices": [{**stop, "text": "a", "matched_stop": "\n"}]}
    assert completion_of(matched) == Completion("a", "stop", "\n")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "why"}}, "why"),
        ({"error": "why"}, "why"),
        ({"message": "why"}, "why"),
        ({"detail": "why"}, "why"),
        ({"detail": [{"loc": ["body"], "msg": "why"}]}, "why"),
        ([{"error": {"code": 400, "message": "why"}}], "why"),
        ({"other": "why"}, '{"other": "why"}'),
        ([], "[]"),
        (None, "null"),
    ],
)
def test_explanations_of_every_form(body: Any, said: str):
    assert message_of(json.dumps(body).encode()) == said


def test_an_explanation_that_is_no_json():
    for text in ("<html>Bad Gateway</html>", "[" * 100_000):
        assert message_of(text.encode()) == text


def test_what_a_completion_says():
    choice = {"text": "a", "finish_reason": "stop"}
    assert completion_of({"choices": [choice]}) == Completion("a", "stop")
    for reason, meant in ((None, ""), (5, ""), ("\n", "\n")):
        answer = {"choices": [{**choice, "stop_reason": reason}], "usage": {"completion_tokens": 2}}
        assert completion_of(answer) == Completion("a", "stop", meant, 2)


def test_a_count_that_is_none_is_left_out():
    for count in (-5, True, "3", None):
        answer = {"choices": [{"text": "a", "finish_reason": "length"}]}
        answer["usage"] = {"completion_tokens": count}
        found = completion_of(answer)
        assert found is not None
        assert found.tokens is None


def test_pauses_grow_up_to_a_limit_and_differ():
    client = RemoteClient(RemoteTarget("https://h/v1", "m", backoff=1.0))
    for number, whole in enumerate((1.0, 2.0, 4.0, LONGEST_PAUSE, LONGEST_PAUSE)):
        pauses = {client._pause(number, None) for _ in range(20)}
        assert len(pauses) > 10
        assert whole / 2 <= min(pauses) <= max(pauses) <= whole
    assert client._pause(3, 11.5) == 11.5


# From the command line


def test_stet_generate_with_an_address(server: Server, tmp_path: Path):
    from typer.testing import CliRunner

    from stet.cli import app

    file = tmp_path / "trace.jsonl"
    common = ["generate", "Problem: Ann has 3 pens.\nSolution:\n", "-d", str(DRAFT)]
    common += ["-n", "30", "-p", "specguard", "--param", "threshold=1", "--trace", str(file)]
    remote = ["-t", server.url, "--target-model", MODEL]
    done = CliRunner().invoke(app, [*common, *remote])
    assert done.exit_code == 0, done.output
    (written,) = trace.read(file)
    assert written.text in done.stdout
    assert written.settings.target["name"] == MODEL

    server.tell(faults=[{}, {"status": 400}])
    failed = CliRunner().invoke(app, [*common, *remote])
    assert failed.exit_code == 1, failed.output
    assert "refuses the request" in failed.stderr
    assert trace.read(file)[1].text in failed.stdout
    assert len(trace.read(file)[1].steps) == 1

    for wrong, message in (
        (["-t", server.url], "Name the model"),
        (["-t", "http://example.org/v1", "--target-model", "m"], "--allow-http"),
        (["-t", str(TARGET), "--target-model", "m"], "goes with an address"),
    ):
        refused = CliRunner().invoke(app, [*common, *wrong])
        assert refused.exit_code == 2
        assert message in " ".join(refused.stderr.split())
    doctor = CliRunner().invoke(app, ["doctor", "-t", server.url, "-d", str(DRAFT)])
    assert (doctor.exit_code, "needs a local target" in doctor.stderr) == (2, True)


def test_the_name_is_public():
    assert stet.RemoteTarget is RemoteTarget


def test_stop_strings_are_the_servers_business_too(
    server: Server, local: Pair, prompts: list[list[int]]
):
    pair = server.pair()
    plain = local.generate(prompts[:2], REWRITE, max_new_tokens=100)
    stop = plain[0].text.split("\n")[1][2:5]
    for policy in (REWRITE, SOMETIMES, "target"):
        here = local.generate(prompts[:2], policy, max_new_tokens=100, stop=stop)
        server.tell()
        away = pair.generate(prompts[:2], policy, max_new_tokens=100, stop=stop)
        assert [r.text for r in away] == [r.text for r in here]
        assert [r.finish_reason for r in away] == [r.finish_reason for r in here]
        asked = [body["stop"] for body in server.seen()["bodies"]]
        assert all(stop in stops for stops in asked)
        assert all(("\n" in stops) == (policy != "target") for stops in asked)
    # A special token is one that only the server sees.
    server.tell()
    pair.generate(prompts[0], REWRITE, max_new_tokens=20, stop="<|end|>", ignore_eos=True)
    assert all("<|end|>" in body["stop"] for body in server.seen()["bodies"])
