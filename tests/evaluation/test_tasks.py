"""Tasks: records to questions, samples, worked examples, templates, and what is refused."""

from __future__ import annotations

import gzip
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from stet.bundled import TARGET, generate
from stet.core.errors import OptionError, StetError
from stet.evaluation.graders import AnswerLine, Choice, Number
from stet.evaluation.graders.registry import GRADERS
from stet.evaluation.tasks import (
    Item,
    Source,
    Task,
    TaskError,
    available_tasks,
    load_task,
    register,
)
from stet.evaluation.tasks.registry import TASKS
from stet.requests.chat import Chat

GSM8K = [
    {
        "question": f"Tom has {n} eggs and buys {n} thousand. How many has he?",
        "answer": f"He buys {n}*1000 = <<{n}*1000={n}000>>{n}000 eggs.\n#### {n},{n:03}",
    }
    for n in range(1, 31)
]
SVAMP = [
    {
        "ID": "chal-1",
        "Body": "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars",
        "Question": "How much is each pack?",
        "Equation": "( 76.0 - 25.0 )",
        "Answer": 51.0,
        "Type": "Subtraction",
    },
    {
        "ID": "chal-2",
        "Body": "There are 8 pens in 2 boxes.",
        "Question": "How many are in a box?",
        "Equation": "( 8.0 / 2.0 )",
        "Answer": "4.0",
        "Type": "Common-Divison",
    },
]
MATH = [
    {
        "problem": "What is half of $x$?",
        "solution": r"It is $\boxed{\frac{x}{2}}$.",
        "answer": r"\frac{x}{2}",
        "subject": "Algebra",
        "level": 3,
        "unique_id": "test/algebra/1.json",
    }
]
SPEC = [
    {"question_id": 81, "category": "writing", "turns": ["Write a blog post.", "Shorten it."]},
    {"question_id": 90, "category": "qa", "turns": ["Who wrote it?"], "reference": ["x"]},
]


def write(path: Path, rows: list[dict], *, as_list: bool = False) -> Path:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text = json.dumps(rows, indent=1) if as_list else lines
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    """A folder as the source repository has it."""
    train = [{**row, "question": "Train: " + row["question"]} for row in GSM8K]
    write(tmp_path / "train.jsonl", train)
    write(tmp_path / "test.jsonl", GSM8K)
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The package `datasets`, with the calls it gets."""
    calls: list[tuple] = []
    data = {"openai/gsm8k": GSM8K, "ChilleD/SVAMP": SVAMP, "HuggingFaceH4/MATH-500": MATH}
    data["ChilleD/MultiArith"] = [{"question": " How many? ", "final_ans": "16"}]
    module = ModuleType("datasets")

    def load_dataset(*args: object, **options: object) -> list[dict]:
        calls.append((args, options))
        if args[0] not in data:
            raise ConnectionError("no network\nmore")
        return data[str(args[0])]

    module.load_dataset = load_dataset
    module.__version__ = "4.2.0"
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


# Bundled


@pytest.mark.parametrize("name", ["stories", "units", "bundled"])
def test_the_bundled_problems_are_asked_as_the_models_were_trained(name):
    task = load_task(name, count=5)
    family = "units" if name == "units" else "stories"
    problems = generate(family, "test", 5)
    assert task.name == family
    assert [q.prompt for q in task.questions] == [p.prompt for p in problems]
    assert [q.reference for q in task.questions] == [str(p.answer) for p in problems]
    assert [q.id for q in task.questions] == [f"{family}/test/0/{n}" for n in range(5)]
    assert task.questions[0].group == f"{len(problems[0].operations)} operations"
    assert task.grader == AnswerLine()
    assert not task.chat
    assert "not that a method helps your models" in task.note
    grades = [task.grader.extract(p.solution) for p in problems]
    assert grades == [q.reference for q in task.questions]


def test_bundled_samples_grow_and_depend_on_split_and_seed():
    small, large = load_task("stories", count=4), load_task("stories", count=9)
    assert large.questions[:4] == small.questions
    other = load_task("stories", count=4, seed=1)
    assert not {q.id for q in other.questions} & {q.id for q in small.questions}
    assert not {q.prompt for q in other.questions} & {q.prompt for q in small.questions}
    held_out = load_task("stories", count=2, split="out_of_template")
    assert held_out.questions[0].prompt == generate("stories", "out_of_template", 1)[0].prompt
    assert len(load_task("units").questions) == 300


def test_a_chat_asks_the_bundled_problem_in_plain_words():
    problem = generate("stories", "test", 1)[0]
    task = load_task("stories", count=1, chat=True)
    assert task.questions[0].prompt.startswith(problem.text + "\n")
    assert 'a line of the form "Answer: N"' in task.questions[0].prompt


def test_bundled_problems_are_in_no_file(tmp_path: Path):
    with pytest.raises(OptionError, match="generated; it reads no file"):
        load_task("stories", path=tmp_path)


# Known sets from files


def test_gsm8k_from_its_file(gsm8k: Path):
    task = load_task("gsm8k", path=gsm8k / "test.jsonl")
    assert len(task.questions) == 30
    first = task.questions[0]
    assert (first.id, first.reference) == ("gsm8k/test/0", "1001")
    assert first.prompt.startswith(GSM8K[0]["question"] + "\n")
    assert "Answer: N" in first.prompt
    assert (task.grader, task.chat, task.stop) == (Number(), Chat(), ())


def test_without_a_chat_template_the_prompt_is_plain_and_the_answer_ends(gsm8k: Path):
    task = load_task("gsm8k", path=gsm8k, chat=False)
    assert task.questions[0].prompt == f"Question: {GSM8K[0]['question']}\nSolution:"
    assert task.stop == ("\nQuestion:",)
    assert load_task("gsm8k", path=gsm8k, chat=False, template="{{ question }}").stop == ()


def test_a_larger_sample_holds_the_smaller_one(gsm8k: Path):
    ids = {
        count: [q.id for q in load_task("gsm8k", path=gsm8k, count=count).questions]
        for count in (1, 5, 20, 30, 99)
    }
    assert ids[20][:5] == ids[5]
    assert ids[99] == ids[30]
    assert len(set(ids[30])) == 30
    assert ids[30] != sorted(ids[30], key=lambda i: int(i.rpartition("/")[2]))
    other = load_task("gsm8k", path=gsm8k, count=5, seed=1)
    assert [q.id for q in other.questions] != ids[5]
    # The same id is the same question in every sample.
    asked = {q.id: q.prompt for q in load_task("gsm8k", path=gsm8k).questions}
    assert all(asked[q.id] == q.prompt for q in other.questions)


def test_worked_examples_come_from_the_training_part(gsm8k: Path):
    task = load_task("gsm8k", path=gsm8k, shots=2, chat=False)
    prompt = task.questions[0].prompt
    assert prompt.count("Question: Train: ") == 2
    assert prompt.endswith(f"\n\nQuestion: {GSM8K[0]['question']}\nSolution:")
    assert "<<" not in prompt
    assert "####" not in prompt
    example = prompt.partition("\n\n")[0]
    assert Number().extract(example) == example.rpartition("Answer: ")[2]
    assert load_task("gsm8k", path=gsm8k, shots=2, chat=False) == task
    other = load_task("gsm8k", path=gsm8k, shots=2, chat=False, seed=1)
    assert other.questions[0].prompt != prompt
    # More examples are the same ones and more.
    more = load_task("gsm8k", path=gsm8k, shots=3, chat=False).questions[0].prompt
    assert more.startswith(prompt.rpartition("\n\n")[0])


@pytest.mark.parametrize("shots", [1, 5, 29])
def test_a_question_is_never_its_own_example(gsm8k: Path, shots: int):
    task = load_task("gsm8k", path=gsm8k / "test.jsonl", shots=shots, chat=False)
    for question, row in zip(task.questions, GSM8K, strict=True):
        assert question.prompt.count(row["question"]) == 1
        assert question.prompt.count("Question:") == shots + 1
        assert f"Answer: {question.reference}\n" not in question.prompt


def test_too_few_examples_are_said(gsm8k: Path):
    with pytest.raises(TaskError, match="30 are wanted"):
        load_task("gsm8k", path=gsm8k / "test.jsonl", shots=30)
    with pytest.raises(TaskError, match="31 worked examples are wanted, and there are 30"):
        load_task("gsm8k", path=gsm8k / "test.jsonl", shots=31)


def test_examples_from_a_given_file(gsm8k: Path):
    task = load_task(
        "gsm8k", path=gsm8k / "test.jsonl", shots=1, shots_path=gsm8k / "train.jsonl", count=3
    )
    assert all(q.prompt.startswith("Train: ") for q in task.questions)


def test_an_example_in_a_chat_is_on_a_line_of_its_own(gsm8k: Path):
    prompt = load_task("gsm8k", path=gsm8k, shots=1, count=1).questions[0].prompt
    assert "where N is a number.\nHe buys" in prompt


def test_svamp_as_its_authors_have_it(tmp_path: Path):
    task = load_task("svamp", path=write(tmp_path / "SVAMP.json", SVAMP, as_list=True), shots=1)
    first, second = task.questions
    assert (first.id, first.reference, first.group) == ("svamp/test/chal-1", "51", "Subtraction")
    assert "25 dollars. How much is each pack?" in first.prompt
    assert (second.reference, second.group) == ("4", "Common-Division")
    assert "2 boxes. How many" in second.prompt
    assert "\n76 - 25 = 51\nAnswer: 51\n\n" in second.prompt


def test_multiarith_in_both_formats(tmp_path: Path, hub: list):
    rows = [{"iIndex": 7, "sQuestion": " How many? ", "lSolutions": [16.0], "lEquations": ["X"]}]
    own = load_task("multiarith", path=write(tmp_path / "m.json", rows, as_list=True))
    there = load_task("multiarith")
    assert own.questions[0].id == "multiarith/test/7"
    assert own.questions[0].prompt == there.questions[0].prompt
    assert own.questions[0].reference == there.questions[0].reference == "16"


def test_math_500(tmp_path: Path):
    pytest.importorskip("math_verify")
    task = load_task("MATH-500", path=write(tmp_path / "test.jsonl", MATH))
    question = task.questions[0]
    assert (question.id, question.group) == ("math500/test/0", "level 3")
    assert question.prompt.endswith("within \\boxed{}.")
    assert task.grader is not None
    assert task.grader.right(task.grader.extract(MATH[0]["solution"]), question.reference or "")


@pytest.mark.parametrize("name", ["spec-bench", "Spec_Bench", "specbench"])
def test_spec_bench_is_asked_for_its_first_turn_and_not_graded(tmp_path: Path, name: str):
    task = load_task(name, path=write(tmp_path / "question.jsonl", SPEC))
    assert [q.id for q in task.questions] == ["spec-bench/test/81", "spec-bench/test/90"]
    assert [q.prompt for q in task.questions] == ["Write a blog post.", "Who wrote it?"]
    assert [q.group for q in task.questions] == ["mt-bench", "qa"]
    assert {q.reference for q in task.questions} == {None}
    assert task.grader is None
    with pytest.raises(TaskError, match="no answer to grade by"):
        load_task(name, path=tmp_path / "question.jsonl", grader="number")
    with pytest.raises(TaskError, match="0 with a solution"):
        load_task(name, path=tmp_path / "question.jsonl", shots=1)
    with pytest.raises(TaskError, match=r"needs a local file; take .*question\.jsonl"):
        load_task(name)


# The hub


def test_the_hub_is_asked_for_the_split_and_never_for_code(hub: list):
    task = load_task("gsm8k", shots=1, count=2)
    assert [args for args, _ in hub] == [("openai/gsm8k", "main")] * 2
    assert [options for _, options in hub] == [{"split": "test"}, {"split": "train"}]
    assert len(task.questions) == 2
    train = load_task("gsm8k", split="train", count=1)
    assert train.questions[0].id.startswith("gsm8k/train/")


def test_hub_and_file_give_the_same_questions(hub: list, gsm8k: Path):
    assert load_task("gsm8k").questions == load_task("gsm8k", path=gsm8k).questions


def test_what_the_hub_cannot_give_is_one_sentence(hub: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stet.evaluation.tasks.gsm8k.Gsm8k.hub", ("else/where", None))
    with pytest.raises(TaskError, match="fetched: no network; name a local file") as told:
        load_task("gsm8k")
    assert "\n" not in str(told.value)
    sys.modules["datasets"].__version__ = "3.6.0"
    with pytest.raises(TaskError, match=r"3\.6\.0 may run code from the hub"):
        load_task("gsm8k")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TaskError, match=r"pip install 'stet-decoding\[tasks\]'"):
        load_task("gsm8k")


# Files of one's own

OWN = [
    {"problem": "2 + 2?", "key": 4, "kind": "easy"},
    {"problem": "20 + 22?\u2028Say.", "key": "42", "kind": "hard"},
    {"problem": "1 / 8?", "key": 0.125, "kind": "hard"},
]
FIELDS = {"question": "problem", "answer": "key", "group": "kind"}


def test_a_jsonl_file_with_a_template(tmp_path: Path):
    path = write(tmp_path / "problems.v2.jsonl", OWN)
    task = load_task(
        str(path), template="{{ kind | upper }}: {{ question }}", grader="number", fields=FIELDS
    )
    assert task.name == "problems.v2"
    assert [q.id for q in task.questions] == [f"problems.v2/{n}" for n in range(3)]
    assert task.questions[0].prompt == "EASY: 2 + 2?"
    assert task.questions[1].prompt == "HARD: 20 + 22?\u2028Say."
    assert [q.reference for q in task.questions] == ["4", "42", "0.125"]
    assert task.questions[2].group == "hard"
    assert (task.grader, task.chat, task.stop) == (Number(), None, ())


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "p.json", "p.json.gz"])
def test_every_kind_of_file_is_read_the_same(tmp_path: Path, name: str):
    path = write(tmp_path / name, OWN, as_list=".json" in name and ".jsonl" not in name)
    task = load_task(str(path), grader="number", fields=FIELDS)
    assert [q.prompt for q in task.questions] == [row["problem"] for row in OWN]
    assert task.questions[0].id == "p/0"


def test_ids_solutions_and_examples_of_a_file(tmp_path: Path):
    rows = [
        {"id": f"n{n}", "question": f"{n}?", "answer": n, "solution": f"so {n}\nAnswer: {n}"}
        for n in range(3)
    ]
    path = write(tmp_path / "own.jsonl", rows)
    task = load_task(str(path), grader="number", shots=2, template="Q: {{ question }}\nA:")
    assert task.questions[1].id == "own/n1"
    assert task.questions[1].prompt.endswith("\n\nQ: 1?\nA:")
    assert "A: so 2\nAnswer: 2\n\n" in task.questions[1].prompt
    assert "so 1" not in task.questions[1].prompt


@pytest.mark.parametrize("field", ["answer", "solution", "key"])
def test_a_template_does_not_see_the_answer(tmp_path: Path, field: str):
    rows = [{"question": "2 + 2?", "key": 4, "solution": "4"}]
    path = write(tmp_path / "own.jsonl", rows)
    with pytest.raises(TaskError, match="uses a field that question 0 does not have") as told:
        load_task(
            str(path), template=f"{{{{ {field} }}}}", grader="number", fields={"answer": "key"}
        )
    assert str(told.value).endswith("it has: question.")


def test_templates_are_confined(tmp_path: Path):
    path = write(tmp_path / "own.jsonl", [{"question": "?", "tags": ["a"]}])
    for source in ("{{ question.__class__.__mro__ }}", "{{ tags.append('b') }}"):
        with pytest.raises(TaskError, match="template"):
            load_task(str(path), template=source)
    with pytest.raises(TaskError, match="cannot be read"):
        load_task(str(path), template="{{ question")
    assert load_task(str(path), template="<b>{{ question }}\n").questions[0].prompt == "<b>?\n"


def test_answers_want_a_grader(tmp_path: Path):
    path = str(write(tmp_path / "own.jsonl", [{"question": "a or b?", "answer": "(B)"}]))
    with pytest.raises(OptionError, match="name a grader for them, or 'none'"):
        load_task(path)
    assert load_task(path, grader="none").grader is None
    assert load_task(path, grader="choice").grader == Choice()
    assert load_task(path, grader=Choice(letters="AB")).grader == Choice(letters="AB")
    with pytest.raises(TaskError, match=r"'number' cannot read the answer '\(B\)' of question"):
        load_task(path, grader="number")
    bare = str(write(tmp_path / "bare.jsonl", [{"question": "?"}]))
    assert load_task(bare).grader is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"question": "a"}\n{"question": \n', "line 2: not JSON"),
        ('{"question": "a"}\n\n[1]\n', "line 3: not a record"),
        ("[1]", "entry 1: not a record"),
        ('[{"question": "a"}', "not JSON"),
        ("", "holds no records"),
        ("[]", "holds no records"),
        ('{"text": "a"}', r"uses a field .*it has: text\."),
        ('{"question": "a", "answer": ["x"]}', r"record 1,: the field 'answer' is a list"),
        ('{"question": "a", "id": 1}\n{"question": "b", "id": 1}', "Two questions have the id"),
    ],
)
def test_files_of_another_form_are_refused_in_one_sentence(tmp_path: Path, content, said):
    path = tmp_path / "own.jsonl"
    path.write_text(content)
    with pytest.raises(TaskError, match=said):
        load_task(str(path))


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(TaskError, match="cannot be read"):
        load_task(str(tmp_path / "absent.jsonl"))
    (tmp_path / "broken.jsonl.gz").write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(TaskError, match="cannot be read"):
        load_task(str(tmp_path / "broken.jsonl.gz"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}')
    with pytest.raises(TaskError, match="cannot be read"):
        load_task(str(tmp_path / "latin.jsonl"))
    with pytest.raises(TaskError, match=r"has no test\.jsonl"):
        load_task("gsm8k", path=tmp_path)
    with pytest.raises(TaskError, match=r"record 1, has no field 'q'; it has: question"):
        load_task(str(write(tmp_path / "o.jsonl", [{"question": "?"}])), fields={"question": "q"})
    with pytest.raises(TaskError, match="without a line '#### N'"):
        load_task("gsm8k", path=write(tmp_path / "g.jsonl", [{"question": "?", "answer": "3"}]))


# By name


def test_the_built_in_tasks_are_found_and_described():
    names = [task.name for task in available_tasks()]
    assert names == sorted(names)
    assert {
        "gsm8k",
        "math500",
        "multiarith",
        "spec-bench",
        "stories",
        "svamp",
        "units",
    } <= set(names)
    for task in available_tasks():
        assert (task.__doc__ or "").strip()
        assert task.max_new_tokens > 0


def test_options_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(OptionError, match="'gsm9k'; choose from gsm8k, .*, or name a JSONL"):
        load_task("gsm9k")
    with pytest.raises(OptionError, match="no split 'training'; it has: test, train"):
        load_task("gsm8k", split="training")
    with pytest.raises(OptionError, match="count is 0"):
        load_task("stories", count=0)
    with pytest.raises(OptionError, match="shots is -1"):
        load_task("stories", shots=-1)
    own = str(write(tmp_path / "own.jsonl", [{"question": "?"}]))
    with pytest.raises(OptionError, match="no second file"):
        load_task(own, path=tmp_path)
    with pytest.raises(OptionError, match="no split 'test'"):
        load_task(own, split="test")
    with pytest.raises(OptionError, match="no grader 'nothing'"):
        load_task("stories", count=1, grader="nothing")
    assert issubclass(TaskError, StetError)


@pytest.fixture
def own_task(monkeypatch: pytest.MonkeyPatch) -> type[Task]:
    monkeypatch.setattr(TASKS, "_classes", dict(TASKS._classes))

    @register
    class Squares(Task):
        """Squares of small numbers."""

        name: ClassVar[str] = "squares"
        aliases: ClassVar[tuple[str, ...]] = ("sq",)
        grader: ClassVar[str | None] = "number"

        def items(self, source: Source) -> list[Item]:
            return [Item(str(n), {"question": f"{n}^2?"}, str(n * n)) for n in range(9)]

    return Squares


def test_a_task_of_ones_own_is_one_class(own_task: type[Task]):
    task = load_task("sq", count=2, template="{{ question }} Say.")
    assert task.name == "squares"
    assert all(q.prompt.endswith("^2? Say.") for q in task.questions)
    assert task.grader == Number()
    assert own_task in available_tasks()


def test_two_tasks_cannot_share_a_name(own_task: type[Task]):
    class Other(own_task):
        name: ClassVar[str] = "gsm8k"

    with pytest.raises(OptionError, match="named 'gsm8k' exists already"):
        register(Other)


def test_an_entry_point_of_another_package_is_found(
    own_task: type[Task], monkeypatch: pytest.MonkeyPatch
):
    class Elsewhere(own_task):
        name: ClassVar[str] = "elsewhere"
        aliases: ClassVar[tuple[str, ...]] = ()

    class Entry:
        def load(self) -> type:
            return Elsewhere

    monkeypatch.setattr(TASKS, "_entry_points_loaded", False)
    monkeypatch.setattr("stet.core.registry.entry_points", lambda group: [Entry()])
    assert load_task("elsewhere").name == "elsewhere"


# The documentation


def test_the_documented_task_and_grader_run_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    monkeypatch.setattr(TASKS, "_classes", dict(TASKS._classes))
    monkeypatch.setattr(GRADERS, "_classes", dict(GRADERS._classes))
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)[1:]:
        code = compile(block, "documented", "exec", dont_inherit=True)
        exec(code, {"__name__": "documented"})
    riddles = write(tmp_path / "r.jsonl", [{"riddle": "What has keys?", "word": "A piano"}])
    task = load_task("riddles", path=riddles, chat=False)
    assert task.questions[0].prompt == "Riddle: What has keys?\nAnswer:"
    assert task.grader is not None
    assert task.grader.right(task.grader.extract("a piano."), "A piano")
    own = tmp_path / "problems.jsonl"
    own.write_text(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    eggs = load_task(str(own), template="Q: {{ question }}\nA:", grader="number", shots=1)
    assert eggs.questions[0].id == "problems/eggs-3"
    assert eggs.questions[0].prompt.startswith("Q: What is half of 7?\nA: Answer: 7/2\n\nQ: A box")
    yes = load_task(str(own), template="{{ question }}", grader="yes-no").grader
    assert yes is not None
    assert yes.right(yes.extract("No. No? Yes!"), "yes")
    assert not yes.right(yes.extract("perhaps"), "yes")


# Chats


def asked_by(template: str | None) -> SimpleNamespace:
    """As much of a pair as tasks look at."""
    return SimpleNamespace(tokenizer=SimpleNamespace(chat_template=template))


def test_a_task_is_put_as_the_model_wants_it(gsm8k: Path):
    task = load_task("gsm8k", path=gsm8k)
    chatty, plain = task.suited(asked_by("{{ messages }}")), task.suited(asked_by(None))
    assert chatty.chat == Chat()
    assert chatty.questions[0].prompt.endswith("where N is a number.")
    assert plain == load_task("gsm8k", path=gsm8k, chat=False)
    assert plain.stop == ("\nQuestion:",)
    for decided in (chatty, plain):
        assert decided.suited(asked_by("x")) is decided
        assert decided.suited(asked_by(None)) is decided
    for chat in (True, False):
        said = load_task("gsm8k", path=gsm8k, chat=chat)
        assert said.suited(asked_by(None)) is said.suited(asked_by("x")) is said


def test_problems_of_your_own_are_put_as_the_model_wants_it(tmp_path: Path):
    path = write(tmp_path / "mine.jsonl", [{"question": "Why?"}])
    task = load_task(str(path))
    assert task.chat is None
    assert task.suited(asked_by("{{ messages }}")).chat == Chat()
    assert task.suited(asked_by(None)).chat is None


def test_the_bundled_models_are_asked_as_they_were_trained():
    task = load_task("stories", count=3)
    own = json.loads((TARGET / "tokenizer_config.json").read_text())["chat_template"]
    assert task.suited(asked_by(own)) == task
    other = task.suited(asked_by("{{ messages }}"))
    assert other.chat == Chat()
    assert 'a line of the form "Answer: N"' in other.questions[0].prompt
    assert [q.id for q in other.questions] == [q.id for q in task.questions]


def test_what_was_changed_about_questions_stays(gsm8k: Path):
    task = load_task("gsm8k", path=gsm8k)
    fewer = replace(task, questions=[replace(task.questions[4], reference="9")], grader=None)
    plain = fewer.suited(asked_by(None))
    assert [q.id for q in plain.questions] == [task.questions[4].id]
    assert plain.questions[0].prompt.startswith("Question: ")
    assert plain.questions[0].reference == "9"
    assert plain.grader is None


def test_system_prompts_and_arguments_of_chats(gsm8k: Path):
    task = load_task("gsm8k", path=gsm8k, system="Be brief.", template_args={"think": False})
    assert task.chat == Chat("Be brief.", {"think": False})
    # They were asked for, so a model without a template is an error and not another prompt.
    assert task.suited(asked_by(None)) is task
    assert task.chat.messages("Why?") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]
    with pytest.raises(OptionError, match="need a chat"):
        load_task("gsm8k", path=gsm8k, system="Be brief.", chat=False)


def test_a_task_may_have_a_system_prompt_of_its_own(gsm8k: Path):
    class Polite(TASKS.find("gsm8k")):
        name: ClassVar[str] = "polite"
        system: ClassVar[str | None] = "Be polite."
        template_args: ClassVar[dict] = {"think": False}

    register(Polite)
    try:
        task = load_task("polite", path=gsm8k)
        assert task.chat == Chat("Be polite.", {"think": False})
        assert task.suited(asked_by(None)).chat is None
        mine = load_task("polite", path=gsm8k, system="Be brief.", template_args={"more": 1})
        assert mine.chat == Chat("Be brief.", {"think": False, "more": 1})
    finally:
        del TASKS._classes["polite"]
