"""Several servers of one model: turns, rests, and answers that go on elsewhere."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from front import Body, Front, front, remote_pair
from served import MODEL, Served
from stet import RemoteTarget
from stet.bundled import DRAFT
from stet.core import trace
from stet.core.errors import OptionError
from stet.pair import Pair
from stet.policies import SpecGuard
from stet.remote import servers as rotation
from stet.remote.client import LONGEST_PAUSE, RemoteClient
from stet.remote.explanations import seconds_of
from stet.remote.servers import FIRST_REST, LONGEST_REST, Home, Servers

REWRITE = SpecGuard(threshold=1.0)
LIMIT = 96


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def three() -> tuple[Servers, Clock]:
    clock = Clock()
    return Servers(["a", "b", "c"], 2, clock), clock


# Whose turn it is


def test_a_server_that_is_down_for_days_rests_no_longer():
    servers, clock = three()
    first = servers.all[0]
    for _ in range(3000):
        servers.failed(first, None)
        assert first.rests_until - clock.now <= LONGEST_REST
        clock.now = first.rests_until


@pytest.mark.parametrize("header", ["inf", "-inf", "nan", "1e999"])
def test_a_server_cannot_ask_to_be_left_alone_for_ever(header):
    assert seconds_of(header) is None


def test_a_request_that_is_tried_often_waits_no_longer():
    target = RemoteTarget("http://127.0.0.1:9/v1", model=MODEL, retries=5000)
    assert 0 < RemoteClient(target)._pause(4000, None) <= LONGEST_PAUSE


def test_answers_take_turns_and_keep_their_server():
    servers, _ = three()
    homes = [Home() for _ in range(7)]
    for home in homes:
        home.server = servers.choose(home, ())
    assert "".join(h.server.url for h in homes) == "abcabca"
    assert all(servers.choose(home, ()) is home.server for home in homes)


def test_who_failed_rests_and_is_asked_last():
    servers, clock = three()
    first, second, third = servers.all
    servers.failed(first, None)
    assert {servers.choose(Home(), ()).url for _ in range(6)} == {"b", "c"}
    assert servers.choose(Home(first), ()) in (second, third)
    assert servers.choose(Home(second), {second}) is third
    assert servers.others({second})
    assert not servers.others({second, third})
    # Nobody is left that it has not failed at: those that are well are asked again.
    assert servers.choose(Home(), {second, third}) in (second, third)
    servers.failed(second, 50.0)
    clock.now += 0.5
    servers.failed(third, None)
    assert servers.choose(Home(), {first, second, third}) is first
    assert servers.choose(Home(), {first}) is third
    servers.succeeded(second)
    assert servers.choose(Home(), ()) is second


def test_rests_double_up_to_a_limit_and_requests_that_fail_together_are_one_failure():
    servers, clock = three()
    first = servers.all[0]
    for _ in range(5):
        servers.failed(first, None)
    assert (first.failures, first.rests_until) == (1, clock.now + FIRST_REST)
    assert servers.rested == []
    lengths = []
    for _ in range(9):
        clock.now = first.rests_until
        assert servers.rested == [first]
        servers.failed(first, None)
        lengths.append(first.rests_until - clock.now)
    assert lengths[:3] == [2 * FIRST_REST, 4 * FIRST_REST, 8 * FIRST_REST]
    assert lengths[-1] == LONGEST_REST
    servers.failed(first, 300.0)
    assert first.rests_until == clock.now + 300.0
    first.probed, clock.now = True, clock.now + 301.0
    assert servers.rested == []


def test_addresses_of_several_servers():
    target = RemoteTarget(["https://a", "https://b/v1/completions"], "m")
    assert target.urls == ("https://a/v1", "https://b/v1")
    assert target.identity["url"] == ["https://a/v1", "https://b/v1"]
    assert RemoteTarget(["https://a"], "m") == RemoteTarget("https://a/v1", "m")
    for wrong, said in (
        ([], "or several different ones"),
        (["https://a", "https://a/v1"], "different ones"),
        (["https://a", "http://b"], "http://b is not encrypted"),
    ):
        with pytest.raises(OptionError, match=said):
            RemoteTarget(wrong, "m")


# In front of a real one


@pytest.fixture(scope="module")
def fronts(stet_server: Served) -> Iterator[list[Front]]:
    behind = f"{stet_server.url}/v1"
    with front(behind) as one, front(behind) as two:
        yield [one, two]


@pytest.fixture
def both(fronts: list[Front], monkeypatch: pytest.MonkeyPatch) -> list[Front]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for state in fronts:
        state.tell()
    return fronts


def urls(both: list[Front]) -> list[str]:
    return [state.url for state in both]


def prompts_of(state: Front, texts: list[str]) -> set[str]:
    return {text for text in texts for body in state.seen if body["prompt"].startswith(text)}


@pytest.mark.slow
def test_an_answers_requests_all_go_to_one_server(
    both: list[Front], here: Pair, texts: list[str], tmp_path: Path
):
    with remote_pair(*urls(both)) as pair:
        results = pair.generate(texts, REWRITE, max_new_tokens=LIMIT)
    expected = here.generate(texts, REWRITE, max_new_tokens=LIMIT)
    assert [r.text for r in results] == [r.text for r in expected]
    shares = [prompts_of(state, texts) for state in both]
    assert [len(share) for share in shares] == [3, 3]
    assert not shares[0] & shares[1]
    trace.write([r.trace for r in results], tmp_path / "t.jsonl")
    assert trace.read(tmp_path / "t.jsonl")[0].settings.target["url"] == urls(both)


class Dying:
    """Fails every request from the `after`-th on."""

    def __init__(self, after: int, status: int) -> None:
        self.left, self.status = after, status

    def __call__(self, body: Body) -> int | None:
        self.left -= 1
        return self.status if self.left < 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("wishes", [{"fails": Dying(4, 503)}, {"drops": True}])
def test_what_a_server_fails_at_is_asked_of_another(
    both: list[Front], here: Pair, texts: list[str], wishes: dict[str, Any]
):
    both[0].tell(**wishes)
    with remote_pair(*urls(both), retries=0) as pair:
        results = pair.generate(texts, REWRITE, max_new_tokens=LIMIT)
    expected = here.generate(texts, REWRITE, max_new_tokens=LIMIT)
    assert [r.error for r in results] == [None] * len(texts)
    assert [(r.text, len(r.steps)) for r in results] == [(r.text, len(r.steps)) for r in expected]
    # Whoever was at home there has moved.
    assert prompts_of(both[1], texts) == set(texts)


@pytest.mark.slow
def test_one_that_is_up_again_takes_its_turns_again(
    both: list[Front], texts: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rotation, "FIRST_REST", 0.2)
    both[0].tell(drops=True)
    with remote_pair(*urls(both), retries=0) as pair:
        assert all(r.error is None for r in pair.generate(texts[:2], REWRITE, max_new_tokens=10))
        failed = len(both[0].seen)
        assert failed
        end = time.monotonic() + 60
        while not both[0].asked and time.monotonic() < end:
            pair.generate(texts[0], REWRITE, max_new_tokens=10)
        # It is asked if it is up, and no answer is risked with it.
        assert set(both[0].asked) == {"/v1/models"}
        assert len(both[0].seen) == failed
        both[0].tell()
        while not both[0].seen and time.monotonic() < end:
            pair.generate(texts[0], REWRITE, max_new_tokens=10)
        assert both[0].seen


@pytest.mark.slow
def test_where_all_fail_the_error_names_them_and_steps_are_kept(
    both: list[Front], here: Pair, texts: list[str]
):
    for state in both:
        state.tell(fails=Dying(1, 500))
    with remote_pair(*urls(both), retries=2) as pair:
        (result,) = pair.generate(texts[:1], REWRITE, max_new_tokens=LIMIT)
    said = result.error or ""
    assert "failed 3 times" in said
    assert "status 500" in said
    assert all(url in said for url in urls(both))
    assert len(result.steps) == 2
    assert here.generate(texts[0], REWRITE, max_new_tokens=LIMIT).text.startswith(result.text)
    assert sum(len(state.seen) for state in both) == 1 + 2 + 3  # the second step went elsewhere


@pytest.mark.slow
def test_a_refusal_is_no_failure_and_names_its_server(both: list[Front], texts: list[str]):
    for state in both:
        state.tell(refuses=lambda body: "never")
    with remote_pair(*urls(both)) as pair:
        (result,) = pair.generate(texts[:1], REWRITE)
    assert sum(len(state.seen) for state in both) == 1
    (asked,) = [state for state in both if state.seen]
    assert f"at {asked.url} refuses the request (status 400" in (result.error or "")


@pytest.mark.slow
def test_each_server_has_so_many_requests_at_a_time(both: list[Front]):
    busy: dict[int, int] = {0: 0, 1: 0}
    most = dict(busy)
    # Each request waits for another one at its server: one by one they would wait for ever.
    pairs = [threading.Barrier(2, timeout=60) for _ in busy]

    def counting(place: int) -> Any:
        def alters(body: Body, answer: Any) -> None:
            busy[place] += 1
            pairs[place].wait()
            most[place] = max(most[place], busy[place])
            pairs[place].wait()
            busy[place] -= 1

        return alters

    for place, state in enumerate(both):
        state.tell(alters=counting(place))
    client = RemoteClient(RemoteTarget(urls(both), MODEL, concurrency=2))

    async def ask() -> None:
        calls = [client.complete("1 + 1 =", max_tokens=1) for _ in range(12)]
        await asyncio.gather(*calls)
        client.close()

    asyncio.run(ask())
    assert [len(state.seen) for state in both] == [6, 6]
    assert most == {0: 2, 1: 2}


@pytest.mark.slow
def test_several_addresses_on_the_command_line(both: list[Front], texts: list[str]):
    from typer.testing import CliRunner

    from stet.cli import app

    command = ["generate", texts[0], "-d", str(DRAFT), "-n", "40", "--target-model", MODEL]
    command += ["-p", "specguard", "--param", "scorer=target", "-t", ", ".join(urls(both))]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "requests to the target in" in done.stderr
    assert "tokens read by it to judge steps in" in done.stderr
    assert any(state.seen for state in both)
