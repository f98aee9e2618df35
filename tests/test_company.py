"""What is recorded of a request does not depend on which others share its batches."""

import json

import pytest

import stet
from families import save_pair
from stet.load import load_pair

PROMPTS = ["how many", "a b c d e f g h i", "e", "c d"]
SETTINGS = {"max_new_tokens": 24, "ignore_eos": True, "draft_length": 4, "logprobs": 2}
POLICIES = [
    "exact",
    "block",
    "ensemble",
    "speculative-cascade",
    "confident",
    "typical",
    "top-k",
    "fly",
    "fuzzy",
    "cosd",
    "target",
    "draft",
    "cascade",
    stet.SpecGuard(signals=("min_logprob",), threshold=0.4, step_tokens=8),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folders = save_pair(tmp_path_factory.mktemp("company"))
    settings = {"max_batch": 16, "max_rows": 40, "max_length": 128, "compile": False}
    with load_pair(**folders, **settings) as pair:
        yield pair


def recorded(result):
    """A trace without times, with numbers as exact as batches of other sizes leave them."""

    def plain(value):
        if isinstance(value, dict):
            found = value.items()
            return {k: plain(v) for k, v in found if "seconds" not in k and k != "request"}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return pytest.approx(value, abs=1e-3) if isinstance(value, float) else value

    return plain(json.loads(result.trace.to_json()))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_record_is_the_same_alone_and_in_company(pair, temperature):
    settings = {**SETTINGS, "temperature": temperature, "seed": 3}
    with_probabilities = {**settings, "probabilities": True}
    less = {k: v for k, v in settings.items() if k != "logprobs"}
    jobs, alone = [], []
    for policy in POLICIES:
        alone.append(pair.generate([PROMPTS[0]], policy, **with_probabilities)[0])
        jobs += pair._jobs([PROMPTS[0]], policy, with_probabilities)
        # Others that ask for less, and for something else, in between.
        jobs += pair._jobs([PROMPTS[1]], policy, less)
    order = [jobs[i] for i in sorted(range(len(jobs)), key=lambda i: i * 7 % len(jobs))]
    pair._thread.submit([job.request for job in order])
    while pair.between_rounds(lambda: pair.engine.busy):
        pass
    for policy, single, job in zip(POLICIES, alone, jobs[::2], strict=True):
        assert recorded(job.result()) == recorded(single), policy
