"""The policy that the documentation teaches is real: it runs as printed."""

import re
from pathlib import Path

import pytest

from stet.core.limits import Limits
from stet.policies.registry import POLICIES, resolve
from tiny import engine, llama, near, request, run

PAGE = Path(__file__).parents[2] / "docs" / "add-a-policy.md"


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def names():
    """What the page's first block defines."""
    found: dict = {"__name__": "documented"}
    exec(BLOCKS[0], found)
    yield found
    POLICIES._classes.pop("plausible", None)


@pytest.fixture
def plausible(names):
    return names["Plausible"]


def test_the_documented_policy_is_registered_and_runs(plausible):
    assert resolve("plausible", {"epsilon": 0.2}) == plausible(epsilon=0.2)
    target = llama()
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6], [5, 3]]
    limits = Limits(max_new_tokens=30)

    def accepted(policy):
        requests = [request(p, policy, limits) for p in prompts]
        run(engine(target, near(target, 0.05)), requests)
        return sum(r.sequence.counters.accepted_tokens for r in requests)

    # A bar of zero accepts all that the draft writes, a bar of one nearly nothing.
    assert accepted(plausible(epsilon=0.0)) > accepted(plausible(epsilon=1.0, delta=1.0))


def test_its_reasons_reach_the_tokens(plausible):
    target = llama()
    item = request([3, 1, 4], plausible(epsilon=0.0), Limits(max_new_tokens=12))
    run(engine(target, near(target, 0.05)), [item])
    assert set(item.sequence.reasons) <= {"plausible", "recovered", "bonus"}
    assert "plausible" in item.sequence.reasons


def test_its_proof_runs(names):
    (proof,) = (block for block in BLOCKS if "check_contract" in block)
    exec(proof, names)
    for policy in (names["Likely"](), names["Plausible"]()):
        names["test_the_contract"](policy)
    names["test_it_is_not_lossless_and_does_not_say_so"]()
