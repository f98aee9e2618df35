"""Running a comparison: fairness, records, and going on after an interruption."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from families import save_pair
from stet.core.errors import OptionError, StetError
from stet.evaluation import records
from stet.evaluation.contenders import contender, parse
from stet.evaluation.graders.base import Grader
from stet.evaluation.run import Comparison, Plan
from stet.evaluation.tasks.base import LoadedTask, Question
from stet.evaluation.voting import Grade, grade
from stet.load import load_pair
from stet.requests.chat import Chat, Rendered

WORDS = ("a", "b", "c d", "e f", "how many", "g h", "b b")


class FirstLetter(Grader):
    """Reads the first letter, and takes it for right or wrong by its place in the alphabet."""

    name = "first-letter"
    summary = "for tests"

    def extract(self, text):
        letters = [c for c in text if c.isalpha()]
        return letters[0] if letters else None

    def right(self, answer, reference):
        return answer is not None and (answer < "i") == (reference == "early")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folders = save_pair(tmp_path_factory.mktemp("pair"), noise=0.1)
    return load_pair(**folders, max_batch=16, max_length=200)


def task(count=7, graded=True):
    questions = [Question(f"q/{i}", WORDS[i], "early" if i % 2 else "late") for i in range(count)]
    return LoadedTask(
        name="letters",
        questions=questions,
        grader=FirstLetter() if graded else None,
        max_new_tokens=12,
        stop=(),
        chat=None,
    )


OPTIONS = {"max_new_tokens": 12, "temperature": 0.0, "draft_length": 3, "probabilities": True}


def plan(*names, **changes):
    names = names or ("target", "draft", "exact", "ensemble", "majority:of=target,k=3")
    made = [item for name in names for item in parse(name)]
    settings = {"task": task(), "contenders": made, "batch": 3, "seeds": (0, 1), "options": OPTIONS}
    return Plan(**settings | changes)


def test_every_policy_answers_every_question_once(pair, tmp_path):
    seen = []
    comparison = Comparison(pair, plan(), tmp_path)
    results = comparison.go(seen.append)
    assert comparison.total == len(results.answers) == 5 * 7 * 2
    assert [a for chunk in seen for a in chunk] == results.answers
    assert max(Counter(a.key for a in results.answers).values()) == 1
    assert records.read(tmp_path) == results
    traces = list(records.read_traces(tmp_path))
    assert {(t["policy"], t["question"], t["seed"]) for t in traces} == {
        a.key for a in results.answers
    }


def test_lossless_policies_have_the_target_s_text_and_records_tell_the_truth(pair, tmp_path):
    results = Comparison(pair, plan("target", "exact", "draft"), tmp_path).go()
    texts = {a.key: a.text for a in results.answers}
    for (policy, question, seed), text in texts.items():
        prompt = next(q.prompt for q in results.run.questions if q.id == question)
        alone = pair.generate(prompt, policy, **OPTIONS)
        assert text == alone.text
        if policy == "exact":
            assert text == texts["target", question, seed]
    for answer in results.answers:
        grader = FirstLetter()
        reference = next(q.reference for q in results.run.questions if q.id == answer.question)
        assert answer.answer == grader.extract(answer.text)
        assert answer.right == grader.right(answer.answer, reference)
        assert 0 < answer.seconds <= answer.chunk_seconds
        assert answer.counters.emitted_tokens == 12 or answer.finish_reason == "stop"
        assert (
            0
            < answer.signals[
                f"{'draft' if answer.policy == 'draft' else 'target'} probability, mean"
            ]
            <= 1
        )
    assert {a.right for a in results.answers} == {True, False}


def test_policies_take_turns_in_an_order_that_moves_on(pair, tmp_path):
    results = Comparison(pair, plan("target", "draft", "exact", seeds=(0,)), tmp_path).go()
    order = list(dict.fromkeys((a.chunk, a.policy) for a in results.answers))
    assert order == [
        (chunk, name)
        for chunk, names in enumerate(
            (
                ("target", "draft", "exact"),
                ("draft", "exact", "target"),
                ("exact", "target", "draft"),
            )
        )
        for name in names
    ]
    sizes = {a.chunk: a.chunk_answers for a in results.answers}
    assert sizes == {0: 3, 1: 3, 2: 1}


def test_chunks_do_not_change_a_sampled_text(pair, tmp_path):
    changes = {"options": OPTIONS | {"temperature": 0.8}, "seeds": (4,)}
    names = ("target", "exact", "majority:of=draft,k=3")
    runs = [
        Comparison(pair, plan(*names, batch=b, **changes), tmp_path / str(b)).go() for b in (1, 4)
    ]
    assert {a.key: (a.text, a.votes) for a in runs[0].answers} == {
        a.key: (a.text, a.votes) for a in runs[1].answers
    }
    other = Comparison(pair, plan(*names, **changes | {"seeds": (5,)}), tmp_path / "other").go()
    assert {a.text for a in other.answers} != {a.text for a in runs[0].answers}


def test_a_majority_is_what_most_samples_say(pair, tmp_path):
    results = Comparison(pair, plan("target", "majority:k=5", seeds=(0,)), tmp_path).go()
    voted = results.of("majority of target")
    assert any(len(a.votes) > 1 for a in voted), "all samples agree, so nothing was tested"
    for answer in voted:
        assert sum(answer.votes.values()) <= 5 == answer.samples
        assert answer.votes[answer.answer] == max(answer.votes.values())
        assert FirstLetter().extract(answer.text) == answer.answer
        # The cost of all samples counts.
        assert answer.counters.emitted_tokens > 12


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("cut", [0, 1])
def test_an_interrupted_run_goes_on_where_it_stopped(pair, tmp_path, cut):
    whole = Comparison(pair, plan(), tmp_path / "whole").go()
    folder = tmp_path / "cut"
    count = 0

    def stop_after_some(_):
        nonlocal count
        count += 1
        if count == 8:
            raise Interrupted

    with pytest.raises(Interrupted):
        Comparison(pair, plan(), folder).go(stop_after_some)
    answers = folder / records.ANSWERS
    before = answers.read_text().splitlines()
    if cut:
        # A crash in the middle of writing: half a line, and a chunk of which a line is missing.
        answers.write_text("\n".join(before[:-1])[:-20])
    resumed = Comparison(pair, plan(), folder)
    assert len(before) - 6 <= len(resumed.answers) <= len(before)
    there, new = len(resumed.answers), []
    results = resumed.go(new.extend)
    assert len(new) == resumed.total - there
    assert {a.key: a.text for a in results.answers} == {a.key: a.text for a in whole.answers}
    assert max(Counter(a.key for a in records.read_answers(folder)).values()) == 1
    kept = [json.loads(line)["text"] for line in answers.read_text().splitlines()]
    assert len(kept) == resumed.total
    traces = Counter((t["policy"], t["question"], t["seed"]) for t in records.read_traces(folder))
    assert set(traces.values()) == {1}
    # Once more: nothing is left to do, and no model is asked.
    again = []
    Comparison(pair, plan(), folder).go(again.append)
    assert not again


SEPARATORS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r"


def test_a_resume_keeps_answers_whatever_characters_are_in_them(pair, tmp_path, monkeypatch):
    import stet.evaluation.answering as runs

    made = plan("target", "exact", seeds=(0,))
    real = runs.vote

    def strange(samples):
        chosen = real(samples)
        object.__setattr__(chosen, "answer", f"one{SEPARATORS}two")
        return chosen

    monkeypatch.setattr(runs, "vote", strange)
    Comparison(pair, made, tmp_path).go()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert len(records.read_answers(tmp_path)) == 14
    again = Comparison(pair, made, tmp_path)
    assert [a.answer for a in again.answers] == [f"one{SEPARATORS}two"] * 14
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", [records.ANSWERS, records.TRACES])
@pytest.mark.parametrize("damage", [b"half a li", b"\0" * 40, b"\xff"])
def test_a_damaged_folder_is_told_and_nothing_in_it_is_changed(pair, tmp_path, name, damage):
    made = plan("target", "exact", seeds=(0,))
    Comparison(pair, made, tmp_path).go()
    lines = (tmp_path / name).read_bytes().split(b"\n")
    lines[2] = damage
    (tmp_path / name).write_bytes(b"\n".join(lines))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(StetError, match=rf"{name}, line 3: not "):
        Comparison(pair, made, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_another_run_s_folder_is_not_touched(pair, tmp_path):
    Comparison(pair, plan("target", "exact"), tmp_path).go()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for changed in (plan("target", "draft"), plan("target", "exact", batch=2)):
        with pytest.raises(StetError, match="holds another run"):
            Comparison(pair, changed, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reference": "nobody"}, "no policy 'nobody'"),
        ({"primary": ["someone"]}, "no policy 'someone'"),
        ({"primary": ["target"]}, "compared to itself"),
        ({"task": task(graded=False)}, "needs a task with a grader"),
        ({"task": task(0)}, "has no questions"),
        ({"seeds": (1, 1)}, "none of them twice"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(changes, sentence):
    with pytest.raises(OptionError, match=sentence):
        plan(**changes)


def test_without_a_grader_only_speed_is_recorded(pair, tmp_path):
    made = plan("target", "exact", task=task(graded=False), seeds=(0,))
    results = Comparison(pair, made, tmp_path).go()
    assert {(a.right, a.answer) for a in results.answers} == {(None, None)}
    assert not results.run.graded


def test_an_answer_that_failed_is_wrong_whatever_it_says():
    right = SimpleNamespace(text="a", error=None)
    assert grade(right, "early", FirstLetter()) == Grade("a", True)
    failed = SimpleNamespace(text="a", error="It broke.")
    assert grade(failed, "early", FirstLetter()) == Grade("a", False)


def test_an_answer_that_ran_out_of_time_says_so(pair, tmp_path):
    made = plan("target", "exact", seeds=(0,), options=OPTIONS | {"timeout": 1e-9})
    results = Comparison(pair, made, tmp_path).go()
    assert {a.finish_reason for a in results.answers} == {"timeout"}


def test_records_that_are_none_are_refused_with_their_place(tmp_path):
    with pytest.raises(StetError, match="holds no results"):
        records.read(tmp_path)
    (tmp_path / records.RUN).write_text("{}")
    with pytest.raises(StetError, match="not a run"):
        records.read(tmp_path)
    (tmp_path / records.ANSWERS).write_text('{"policy": "x"}\n')
    with pytest.raises(StetError, match="line 1: not an answer"):
        records.read_answers(Path(tmp_path))


def test_a_chat_task_goes_through_the_template(pair, tmp_path, monkeypatch):
    asked = []

    def render(messages, **arguments):
        asked.append(messages)
        return Rendered(pair.tokenizer("a b")["input_ids"], None, {"sha256": "", "arguments": {}})

    monkeypatch.setattr(pair, "render", render)
    chatty = LoadedTask(
        name="c", questions=task(1).questions, grader=None, max_new_tokens=4, stop=(), chat=Chat()
    )
    made = Plan(chatty, [contender("target")], options={"max_new_tokens": 4})
    Comparison(pair, made, tmp_path).go()
    assert asked[0] == [{"role": "user", "content": "a"}]


TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] + ' ' + m.content + ' ' }}{% endfor %}"
    "{% if loud %}!{% endif %}"
)


def test_chats_are_recorded_and_are_part_of_what_a_run_is(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(pair.tokenizer, "chat_template", TEMPLATE)
    own = replace(task(2), other=lambda: pytest.fail("it was chosen"), chat=Chat())

    def made(**changes):
        return Plan(replace(own, **changes), [contender("target")], options={"max_new_tokens": 4})

    results = Comparison(pair, made(), tmp_path).go()
    assert results.run.chat["system"] is None
    assert results.run.chat["arguments"] == {}
    assert records.read_run(tmp_path).chat == results.run.chat
    (first, *_) = records.read_traces(tmp_path)
    assert first["trace"]["prompt"] == "u a "
    assert first["trace"]["settings"]["chat"]["sha256"] == results.run.chat["sha256"]
    assert Comparison(pair, made(), tmp_path).go().answers == results.answers
    for chat in (Chat("b"), Chat(arguments={"loud": True}), None):
        with pytest.raises(StetError, match="differs in chat"):
            Comparison(pair, made(chat=chat, other=None), tmp_path)
    monkeypatch.setattr(pair.tokenizer, "chat_template", "{# other #}" + TEMPLATE)
    with pytest.raises(StetError, match="differs in chat"):
        Comparison(pair, made(), tmp_path)


def test_a_template_that_refuses_does_so_before_anything_is_run(pair, tmp_path, monkeypatch):
    refusing = "{{ raise_exception('only in French') }}"
    monkeypatch.setattr(pair.tokenizer, "chat_template", refusing)
    with pytest.raises(OptionError, match="refuses this chat: only in French"):
        Comparison(pair, Plan(replace(task(2), chat=Chat()), [contender("target")]), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_no_two_samples_share_randomness_however_chunks_are_cut(pair, tmp_path, monkeypatch):
    seeds = Counter()
    generate = pair.generate

    def listen(prompts, policy, **options):
        results = generate(prompts, policy, **options)
        if isinstance(options["seed"], list):  # else it warms up
            seeds.update(r.seed for r in results)
        return results

    monkeypatch.setattr(pair, "generate", listen)
    settings = {"seeds": (0, 1, 2), "options": {**OPTIONS, "temperature": 0.8}}
    for batch in (1, 3):
        seeds.clear()
        made = plan("majority:of=target,k=4", reference="majority of target (k=4)")
        made = replace(made, batch=batch, **settings)
        Comparison(pair, made, tmp_path / str(batch)).go()
        samples = 4 * 3 * len(made.task.questions)
        assert set(seeds.values()) == {1}
        assert len(seeds) == samples
        if batch == 1:
            first = set(seeds)
    assert set(seeds) == first
