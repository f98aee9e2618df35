"""Tuning a draft: what is learned, going on after an interruption, and what it is good for."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import stet
from stet.bundled import DRAFT, TARGET, generate
from stet.core.errors import CompatibilityError, OptionError, StetError
from stet.evaluation.tasks import load_task
from stet.tuning import Example, TuneRequest, read_examples, tune, write_examples
from stet.tuning import tuning as module
from stet.tuning.batches import batch_of, chosen, passes
from stet.tuning.examples import _end_of

pytest.importorskip("peft", reason="needs peft")


def some(count, start=0):
    """Examples of tokens that a tiny vocabulary has."""
    return [
        Example(f"{n}", (5, 6, 7 + n % 11, 30 + n), tuple(range(40 + n % 7, 48 + n % 7)))
        for n in range(start, start + count)
    ]


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def pair():
    with stet.load_pair(max_batch=8, compile=False) as found:
        yield found


@pytest.mark.unit
def test_only_answers_are_learned_and_each_from_the_token_before_it():
    batch = batch_of([Example("a", (5, 6), (7, 8, 9)), Example("b", (3,), (4,))])
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9], [3, 4, 0, 0, 0]]
    assert batch.mask.sum(1).tolist() == [5, 2]
    assert batch.answers.tolist() == [[False, True, True, True, False], [True] + [False] * 4]
    assert batch.following.tolist() == [7, 8, 9, 4]


@pytest.mark.unit
def test_passes_hold_every_example_once_and_are_no_larger_than_asked():
    examples = [Example(str(n), (1,) * n, (2,) * 3) for n in range(1, 40)]
    found = list(passes(examples, tokens=100))
    assert sum(len(batch.ids) for batch in found) == 39
    assert all(batch.ids.numel() <= 100 for batch in found)
    alone = list(passes([Example("long", (1,) * 300, (2,))], tokens=100))
    assert [batch.ids.shape for batch in alone] == [(1, 301)]


@pytest.mark.unit
def test_an_epoch_has_every_example_once_in_another_order_than_the_next():
    examples = some(20)
    seen = [e.id for step in range(10) for e in chosen(examples, 4, step, seed=3)]
    first, second = seen[:20], seen[20:]
    assert sorted(first) == sorted(second) == sorted(e.id for e in examples)
    assert first != second
    assert seen == [e.id for step in range(10) for e in chosen(examples, 4, step, seed=3)]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"examples": some(3)}, "3 examples are too few"),
        ({"validation": some(2, 900)}, "2 validation are too few"),
        ({"validation": some(20)}, "also learned"),
        ({"rank": 0}, "rank is 0"),
        ({"rate": 0.0}, "rate is 0.0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changed, sentence):
    settings = {"examples": some(20), "validation": some(20, 500), **changed}
    with pytest.raises(OptionError, match=sentence):
        TuneRequest(**settings)


@pytest.mark.unit
def test_a_users_examples_are_read_in_both_forms(pair, tmp_path):
    path = tmp_path / "mine.jsonl"
    chat = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    records = [{"prompt": "Problem: 1 + 1?\nSolution:\n", "answer": "2"}, {"messages": chat}]
    path.write_text("\n".join(map(json.dumps, records)))
    plain, chatted = read_examples(pair, path, None)
    assert plain.prompt == chatted.prompt
    assert plain.answer == chatted.answer
    assert plain.answer[-1] in pair.end_tokens
    for record in ({"prompt": "1"}, {"messages": chat[:1]}, {"prompt": "1", "answer": ""}):
        path.write_text(json.dumps(record))
        with pytest.raises(OptionError, match=r"Example 1 of .* has neither"):
            read_examples(pair, path, None)


@pytest.mark.unit
def test_an_example_ends_as_the_tokenizers_chats_do():
    """Of several ends not the one with the lowest id, which may end texts without a chat."""
    for own, expected in ((9, 9), (4, 3), (None, 3)):
        tokenizer = SimpleNamespace(eos_token_id=own)
        found = _end_of(SimpleNamespace(tokenizer=tokenizer, end_tokens=frozenset({9, 3})))
        assert found == [expected]


@pytest.mark.slow
def test_the_targets_answers_are_kept_and_not_asked_for_again(pair, tmp_path, monkeypatch):
    task = load_task("stories", split="policy_train", count=20)
    folder, path = tmp_path, tmp_path / "answers.jsonl"
    found = write_examples(pair, task, folder, 8, quiet)
    assert len(found) == 20
    text = pair.tokenizer.decode(found[0].answer, skip_special_tokens=True)
    prompt = generate("stories", "policy_train", 1)[0].prompt
    assert text == pair.generate(prompt, "target", max_new_tokens=task.max_new_tokens).text
    path.write_text("\n".join(path.read_text().splitlines()[:12]) + '\n{"id": "torn')
    asked = []
    real = type(pair).generate
    monkeypatch.setattr(
        type(pair), "generate", lambda self, p, *a, **k: asked.extend(p) or real(self, p, *a, **k)
    )
    assert write_examples(pair, task, folder, 8, quiet) == found
    assert len(asked) == 8
    shorter = replace(task, max_new_tokens=7)
    with pytest.raises(StetError, match="holds another set of answers"):
        write_examples(pair, shorter, folder, 8, quiet)


def request(**more):
    settings = {"examples": some(40), "validation": some(16, 200), "batch": 8, "rate": 5e-3}
    return TuneRequest(**{**settings, "epochs": 6.0, "rank": 4, "checks": 3, **more})


@pytest.mark.slow
def test_an_interrupted_tuning_goes_on_to_the_same_adapter(tmp_path, monkeypatch):
    whole = tune(DRAFT, request(), tmp_path / "one", tmp_path / "a", quiet)
    assert whole.best.loss < whole.checks[0].loss - 0.5
    assert whole.best.agreement > whole.checks[0].agreement

    class Stop(Exception):
        pass

    def stop(_, done, __):
        if done == 13:
            raise Stop

    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    with pytest.raises(Stop):
        tune(DRAFT, request(), tmp_path / "two", tmp_path / "b", stop)
    again = tune(DRAFT, request(), tmp_path / "two", tmp_path / "b", quiet)
    assert [c.step for c in again.checks] == [c.step for c in whole.checks]
    for one, other in zip(whole.checks, again.checks, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=0.02)
    with pytest.raises(StetError, match="holds another tuning"):
        tune(DRAFT, request(rank=8), tmp_path / "two", tmp_path / "c", quiet)


@pytest.mark.slow
def test_a_draft_that_learned_its_targets_texts_is_accepted_more(tmp_path):
    """On the very texts: what is learned must show, and nothing else is promised."""
    prompts = [problem.prompt for problem in generate("stories", "policy_train", 40)]
    with stet.load_pair(max_batch=20, compile=False) as plain:
        task = load_task("stories", split="policy_train", count=40)
        learned = write_examples(plain, task, tmp_path / "learned", 20, quiet)
        before = plain.generate(prompts, "exact", max_new_tokens=200, draft_length=6)
    settings = request(examples=learned, validation=learned[:0] or held_out(tmp_path), rank=16)
    tune(DRAFT, settings, tmp_path / "state", tmp_path / "tuned", quiet)
    with stet.load_pair(
        TARGET, tmp_path / "tuned", dtype="float32", max_batch=20, compile=False
    ) as tuned:
        after = tuned.generate(prompts, "exact", max_new_tokens=200, draft_length=6)
    for one, other in zip(before, after, strict=True):
        assert one.text == other.text
    rates = [
        sum(r.counters.accepted_tokens for r in found)
        / sum(r.counters.drafted_tokens for r in found)
        for found in (before, after)
    ]
    assert rates[1] > rates[0]
    record = json.loads((tmp_path / "tuned" / "tuning.json").read_text())
    assert record["best"]["step"] in [check["step"] for check in record["checks"]]


def held_out(folder):
    with stet.load_pair(max_batch=20, compile=False) as pair:
        task = load_task("stories", split="validation", count=16)
        return write_examples(pair, task, folder / "validation", 16, quiet)


@pytest.mark.unit
def test_what_cannot_be_trained_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(CompatibilityError, match="is a GGUF file, which cannot be trained"):
        tune(file, request(), tmp_path / "state", tmp_path / "out", quiet)


@pytest.mark.unit
def test_batches_are_padded_so_that_rows_do_not_see_each_other():
    """What a row gives does not depend on the length of the others."""
    alone = batch_of([Example("a", (5, 6), (7, 8))])
    padded = batch_of([Example("a", (5, 6), (7, 8)), Example("b", (5,) * 9, (7,))])
    assert torch.equal(alone.ids[0], padded.ids[0, :4])
    assert padded.mask[0].tolist() == [1] * 4 + [0] * 6
