"""Texts that many policies share are those that each of them writes by itself."""

import json
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
    generate = pair.agenerate

    def counting(prompt, *args, **kwargs):
        asked.append(1)
        return generate(prompt, *args, **kwargs)

    monkeypatch.setattr(pair, "agenerate", counting)
    path = tmp_path / "texts.jsonl"
    found = shared.SharedTexts(pair, task, policies, path).run()
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
    monkeypatch.setattr(pair, "agenerate", lambda *_, **__: pytest.fail("written again"))
    assert shared.SharedTexts(pair, task, policies, path).run() == found


def test_it_goes_on_where_it_was_stopped(shared, pair, tmp_path):
    task = load_task("stories", split="validation", count=20)
    policies = {label: resolve(*POLICIES[label]) for label in ("target", "bolder", "always")}
    whole = shared.SharedTexts(pair, task, policies, tmp_path / "whole.jsonl").run()

    def stop(done: int) -> None:
        if done >= 12:
            raise KeyboardInterrupt

    cut = shared.SharedTexts(pair, task, policies, tmp_path / "cut.jsonl")
    with pytest.raises(KeyboardInterrupt):
        cut.run(stop)
    assert 12 <= len(shared.read(cut.path)) < len(whole)
    begun = json.loads(cut.begun.read_text())
    assert any(entry["written"] for entry in begun)
    with (tmp_path / "cut.jsonl").open("a") as file:
        file.write('{"policy": "torn')
    # An answer may have been written down while it was still among those that are begun.
    done = next(w for w in shared.read(tmp_path / "whole.jsonl") if w.policy == "target")
    place = next(i for i, q in enumerate(task.questions) if q.id == done.question)
    more = {"question": place, "written": [], "names": ["target"], "mismatches": 0, "accepted": 0}
    cut.begun.write_text(json.dumps([*begun, more]))
    found = shared.SharedTexts(pair, task, policies, cut.path).run()

    def by_place(texts):
        return {(w.policy, w.question): w for w in texts}

    assert len(found) == len(whole)
    assert by_place(found) == by_place(whole)


def test_a_limit_cuts_as_it_does_for_a_policy_alone(shared, pair, tmp_path):
    task = replace(load_task("stories", split="validation", count=8), max_new_tokens=21)
    policies = {"target": resolve("exact"), "always": resolve("random", {"rate": 1.0})}
    found = shared.SharedTexts(pair, task, policies, tmp_path / "texts.jsonl").run()
    for label, policy in policies.items():
        results = pair.generate([q.prompt for q in task.questions], policy, max_new_tokens=21)
        own = {w.question: w for w in found if w.policy == label}
        for question, result in zip(task.questions, results, strict=True):
            assert own[question.id].text == result.text
            assert own[question.id].cut == (result.finish_reason == "length")
