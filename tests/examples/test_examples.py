"""The examples run as they are printed."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from stet.core import trace
from stet.policies.registry import POLICIES

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run an example as a script; returns what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    yield run
    POLICIES._classes.pop("shortlist", None)


def test_generate(run):
    said = run("generate")
    assert said.count("How many") == 2
    found = re.findall(r"(\d+) tokens in (\d+) target passes: (\d+) of (\d+) drafted", said)
    assert len(found) == 2
    for emitted, passes, accepted, drafted in (map(int, numbers) for numbers in found):
        assert 0 < passes <= emitted <= 128
        assert accepted <= drafted
        assert emitted <= accepted + passes
    assert len(re.findall(r"by the (draft|target), (accepted|recovered|bonus)", said)) == 2


def test_stream(run):
    said = run("stream", "Ann has 3 pens.", "--policy", "target")
    first, *answer, last = said.strip().splitlines()
    assert first == "by the draft by the target"
    assert "".join(answer).strip()
    assert last == "1.0 tokens per pass of the target"


def test_own_policy(run):
    said = run("own_policy")
    parts = said.strip().split("\n\n")
    names = ["exact", "Shortlist(size=1)", "Shortlist(size=2)", "Shortlist(size=5)"]
    assert [part.splitlines()[0] for part in parts] == names
    texts = ["\n".join(part.splitlines()[1:-1]) for part in parts]
    # A list of one is the target's own choice: greedy decoding.
    assert texts[0] == texts[1] != ""
    counts = [int(re.search(r"accepted, (\d+) against", part)[1]) for part in parts]
    assert counts[:2] == [0, 0]


def test_a_shortlist_of_everything_accepts_everything():
    import torch

    from stet.core.sampling import Sampler, SamplingParams
    from stet.policies import Blocks

    shortlist = runpy.run_path(str(FOLDER / "own_policy.py"))["Shortlist"]
    POLICIES._classes.pop("shortlist", None)
    logits = torch.tensor([[[3.0, 2.0, 1.0, 0.0]] * 3] * 2)
    blocks = Blocks(
        drafted=torch.tensor([[1, 2], [0, 3]]),
        lengths=torch.tensor([2, 1]),
        target_logits=logits,
        sampler=Sampler([SamplingParams()] * 2, [[], []], 4, torch.device("cpu")),
        uniforms=lambda slot, count: torch.zeros(2, count),
    )
    accepted = {size: shortlist(size).verify(blocks).accepted.tolist() for size in (1, 2, 3, 4)}
    assert accepted == {1: [0, 1], 2: [1, 1], 3: [2, 1], 4: [2, 1]}
    verification = shortlist(2).verify(blocks)
    words = [[shortlist.reasons[i] for i in row] for row in verification.reasons.tolist()]
    assert [row[: n + 1] for row, n in zip(words, accepted[2], strict=True)] == [
        ["accepted_mismatch", "recovered"],
        ["accepted", "bonus"],
    ]


def test_custom_generate(run):
    said = run("custom_generate")
    assert len(re.findall(r"[\d.]+ tokens per pass of the target", said)) == 2
    assert said.endswith("the same tokens as without Stet: True\n")


def test_trace(run, tmp_path):
    path = tmp_path / "run.jsonl"
    said = run("trace", path)
    exact, confident = trace.read(path)
    assert [r.settings.policy["name"] for r in (exact, confident)] == ["exact", "confident"]
    assert repr(exact.text.strip()) in said
    for record in (exact, confident):
        for block in record.blocks:
            assert block.position < len(record.tokens)
    reasons = [token.reason for record in (exact, confident) for token in record.tokens]
    assert said.count("accepted mismatch: ") == reasons.count("accepted_mismatch")
    assert "accepted_mismatch" not in [token.reason for token in exact.tokens]
    assert said.count("recovered: ") == reasons.count("recovered")
    assert said.count("s in the target") == 2


def test_every_example_is_short_and_tested():
    tested = set(re.findall(r'run\("(\w+)"', Path(__file__).read_text()))
    found = {path.stem for path in FOLDER.glob("*.py")}
    assert tested == found
    for path in FOLDER.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 65
