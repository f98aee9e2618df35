"""The published format of a trace."""

import json
from pathlib import Path

import pydantic
import pytest
from packaging.version import Version

import stet
from stet.core import trace
from stet.core.errors import StetError
from stet.core.trace import Counters

SCHEMA = Path(stet.__file__).parent / "core/trace.schema.json"


@pytest.mark.skipif(
    Version(pydantic.VERSION) < Version("2.12"), reason="older pydantic writes schemas otherwise"
)
def test_the_published_schema_is_the_code():
    assert json.loads(SCHEMA.read_text()) == trace.json_schema(), (
        "the format changed: raise trace.VERSION and run "
        "`python -m stet.core.trace > src/stet/core/trace.schema.json`"
    )


def test_a_line_that_is_no_trace_is_named(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"request": 1}\n')
    with pytest.raises(StetError, match="line 1: not a trace of version 3"):
        trace.read(path)


def test_counters_add_up_and_speak_vllms_names():
    one = Counters(emitted_tokens=7, drafts=3, drafted_tokens=9, accepted_tokens=4, target_passes=3)
    one.accepted_per_position = [2, 1, 1]
    total = Counters()
    total.add(one)
    total.add(one)
    assert total.emitted_tokens == 14
    assert total.accepted_per_position == [4, 2, 2]
    metrics = total.as_metrics()
    # Of six blocks, two with nothing accepted, two with one token, none with two, two with three.
    assert metrics["acceptance_histogram"] == [2, 2, 0, 2]
    assert metrics["num_spec_steps"] == 6
    assert metrics["num_accepted_draft_tokens"] == 8
    assert metrics["mean_acceptance_length"] == pytest.approx(1 + 8 / 6)
    assert metrics["draft_acceptance_rate"] == pytest.approx(8 / 18)


def test_nothing_drafted_means_no_rates():
    empty = Counters()
    assert empty.acceptance_rate is None
    assert empty.tokens_per_pass is None
    assert empty.as_metrics()["acceptance_histogram"] == []
