"""The server of these tests, with the bundled pair, and the official client."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from served import MODEL, Served, serving
from stet import load_pair
from stet.pair import Pair
from stet.serve.server import hosts_of
from stet.serve.settings import ServeSettings


@pytest.fixture(scope="package")
def pair() -> Iterator[Pair]:
    with load_pair(max_batch=4, max_rows=20, prefix_caching=True, profile=False) as pair:
        yield pair


@pytest.fixture(scope="package")
def served(pair: Pair) -> Iterator[Served]:
    """A server that allows everything."""
    settings = ServeSettings(model=MODEL, allow=("all",), hosts=hosts_of("127.0.0.1", ()))
    with serving(pair, settings) as served:
        yield served


@pytest.fixture(scope="package")
def client(served: Served) -> openai.OpenAI:
    return served.client()
