"""Whatever is in a file, it is loaded or refused with one sentence, soon and in little memory."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("gguf")
import ggufs
from stet.core.errors import LoadError, StetError
from stet.models import load_model
from stet.models.gguf.file import GgufFile

pytestmark = pytest.mark.unit

NUMBERS = [0, 1, 2, 8, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]
PADDING = 32  # the last weight may be followed by almost so many bytes that mean nothing
WORDS = [struct.pack("<Q", number) for number in NUMBERS]
FLOATS = [struct.pack("<f", number) for number in (0.0, -1.0, float("inf"), float("nan"), 1e30)]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 4}
    path = tmp_path_factory.mktemp("damaged") / "whole.gguf"
    model = ggufs.build(request.param, **small)
    return ggufs.write(path, model, request.param, "Q8_0")


@cache
def content(path: Path) -> bytes:
    return path.read_bytes()


def outcome(path: Path) -> str:
    """What loading a file says; empty where it is loaded."""
    try:
        load_model(path, role="target", device="cpu")
    except StetError as error:
        sentence = str(error)
        assert sentence.isprintable(), sentence
        assert sentence.endswith("."), sentence
        assert len(sentence) < 400 + 2 * len(str(path)), sentence
        return sentence
    return ""


def front(path: Path) -> int:
    """Where the weights begin."""
    places = GgufFile.open(path).header.tensors.values()
    return len(content(path)) - sum(place.raw.numel() for place in places) - 32 * len(places)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_cut_files(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    raw = content(whole)
    path = tmp_path / "it.gguf"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - PADDING))])
    assert outcome(path)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_changed_files(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(content(whole))
    end = front(whole)
    # Most of the front is vocabulary: settings lie before it, places of tensors behind it.
    places = st.integers(0, 1500) | st.integers(end - 1500, end) | st.integers(0, end)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(places)
        new = data.draw(st.sampled_from([*WORDS, *FLOATS]) | st.binary(min_size=1, max_size=8))
        gone = data.draw(st.sampled_from([len(new), len(new), 0, 3]))
        raw[at : at + gone] = new
    path = tmp_path / "it.gguf"
    path.write_bytes(raw)
    outcome(path)


def test_large_claims_cost_nothing(whole: Path, tmp_path: Path) -> None:
    """Every number of eight bytes in the front, as if it were a count or a size."""
    raw = content(whole)
    path = tmp_path / "it.gguf"
    tracemalloc.start()
    try:
        for at in (8, 16, 24, *range(32, 1500, 7)):
            for claim in (2**26, 2**40, 2**63):
                changed = raw[:at] + struct.pack("<Q", claim) + raw[at + 8 :]
                path.write_bytes(changed)
                with suppress(LoadError):
                    GgufFile.open(path)
        assert tracemalloc.get_traced_memory()[1] < 2**25 + 3 * len(raw)
    finally:
        tracemalloc.stop()
