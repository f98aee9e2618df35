"""Texts that many policies share are those that each of them writes by itself."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stet.evaluation.tasks import load_task
from stet.load import load_pair
from stet.policies import resolve

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
POLICIES = {
    "target": ("exact", {}),
    "confident": ("confident", {}),
    "bolder": ("confident", {"margin": -0.4}),
    "ensemble": ("ensemble", {"weight": 0.5}),
    "cosd": ("cosd", {}),
    "typical": ("typical", {}),
    "cascade": ("speculative-cascade", {}),
    "cospec": ("cospec", {}),
    "always": ("random", {"rate": 1.0}),
}

pytestmark = pytest.mark.slow


@pytest.fixture
def shared(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import _shared_texts

    yield _shared_texts
    sys.modules.pop("_shared_texts", None)


@pytest.fixture(scope="module")
def pair():
    return load_pair(compile=False, max_batch=16)


def test_each_text_is_the_one_that_its_policy_writes(shared, pair, tmp_path, monkeypatch):
    task = load_task("stories", split="validation", count=20)
    policies = {label: resolve(name, values) for label, (name, values) in POLICIES.items()}
    asked: list[int] = []
    generate = pair.generate

    def counting(prompts, *args, **kwargs):
        asked.append(len(prompts))
        return generate(prompts, *args, **kwargs)

    monkeypatch.setattr(pair, "generate", counting)
    path = tmp_path / "texts.jsonl"
    found = shared.SharedTexts(pair, task, policies, path, pool=8).run()
    written = sum(asked)
    assert len(found) == len(policies) * len(task.questions)
    # Less is written than by each policy for itself, and not all texts are the same.
    assert len(task.questions) < written < 0.8 * len(found)
    assert len({(w.question, w.text) for w in found}) > len(task.questions)
    monkeypatch.undo()
    texts = {(w.policy, w.question): w for w in found}
    for label, policy in policies.items():
        results = pair.generate(
            [q.prompt for q in task.questions],
            policy,
            max_new_tokens=task.max_new_tokens,
            stop=list(task.stop),
        )
        for question, result in zip(task.questions, results, strict=True):
            own = texts[label, question.id]
            assert own.text == result.text, (label, question.id)
            assert own.tokens == len(result.token_ids)
            accepted = sum(len(block.accepted_mismatches) for block in result.trace.blocks)
            assert own.accepted == accepted, (label, question.id)
            grader = task.grader
            assert own.right == grader.right(grader.extract(result.text), question.reference)
    assert all(w.mismatches >= w.accepted for w in found)
    # Started again, nothing is written; of another policy only its own texts.
    monkeypatch.setattr(pair, "generate", lambda *_, **__: pytest.fail("written again"))
    assert shared.SharedTexts(pair, task, policies, path, pool=8).run() == found


def test_a_limit_cuts_as_it_does_for_a_policy_alone(shared, pair, tmp_path):
    task = replace(load_task("stories", split="validation", count=8), max_new_tokens=21)
    policies = {"target": resolve("exact"), "always": resolve("random", {"rate": 1.0})}
    found = shared.SharedTexts(pair, task, policies, tmp_path / "texts.jsonl", pool=8).run()
    for label, policy in policies.items():
        results = pair.generate([q.prompt for q in task.questions], policy, max_new_tokens=21)
        own = {w.question: w for w in found if w.policy == label}
        for question, result in zip(task.questions, results, strict=True):
            assert own[question.id].text == result.text
            assert own[question.id].cut == (result.finish_reason == "length")
