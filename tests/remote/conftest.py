"""Stet's own server with the bundled target, and what stands in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from front import Front, front, remote_pair
from served import MODEL, Served, serving
from stet import load_pair
from stet.bundled import DRAFT, TARGET, generate
from stet.pair import Pair
from stet.serve.server import hosts_of
from stet.serve.settings import ServeSettings


@pytest.fixture(scope="package")
def here() -> Iterator[Pair]:
    """The bundled pair as it is decoded here."""
    with load_pair(TARGET, DRAFT, dtype="float32", max_length=600, compile=False) as pair:
        yield pair


@pytest.fixture(scope="package")
def texts() -> list[str]:
    return [problem.prompt for problem in generate("stories", "calibration", 6)]


@pytest.fixture(scope="package")
def stet_server() -> Iterator[Served]:
    """`stet serve`, with a pair of its own."""
    settings = ServeSettings(model=MODEL, allow=("all",), hosts=hosts_of("127.0.0.1", ()))
    with (
        load_pair(TARGET, "lookup", dtype="float32", max_length=600, compile=False) as pair,
        serving(pair, settings) as served,
    ):
        yield served


@pytest.fixture(scope="package")
def fronted(stet_server: Served) -> Iterator[Front]:
    with front(f"{stet_server.url}/v1") as state:
        yield state


@pytest.fixture
def before(fronted: Front, monkeypatch: pytest.MonkeyPatch) -> Front:
    """What stands in front, as if nothing had happened."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fronted.tell()
    return fronted


@pytest.fixture
def away(before: Front) -> Iterator[Pair]:
    """The draft here, and the target behind the front."""
    with remote_pair(before.url) as pair:
        yield pair
