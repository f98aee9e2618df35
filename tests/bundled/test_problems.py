"""The generated problems: true, disjoint, repeatable, varied."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from stet.bundled import (
    FAMILIES,
    SPLITS,
    Difficulty,
    Problem,
    format_prompt,
    generate,
    iterate,
    parse_answer,
    template_names,
)
from stet.bundled.splits import Key, split_of
from stet.bundled.story import LARGEST, STEP_FORMS, RejectedDrawError, Story

pytestmark = pytest.mark.unit

ARITHMETIC = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def exact(left: int, symbol: str, right: int) -> float:
    """What the operation gives, as a fraction if it must."""
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[symbol]


@pytest.fixture(scope="module", params=[(f, s) for f in FAMILIES for s in SPLITS], ids="-".join)
def problems(request: pytest.FixtureRequest) -> list[Problem]:
    family, split = request.param
    return generate(family, split, 400)


def test_every_step_is_one_true_operation(problems):
    for problem in problems:
        for line in problem.steps:
            found = ARITHMETIC.findall(line)
            assert len(found) == 1, line
            left, symbol, right, result = found[0]
            assert exact(int(left), symbol, int(right)) == int(result), line


def test_every_step_uses_known_numbers_and_leads_to_the_answer(problems):
    """Every operand is in the text, is a unit's size, or was computed before."""
    unit_sizes = {2, 7, 12, 60, 100, 1000}
    for problem in problems:
        known = {int(n) for n in re.findall(r"\d+", problem.text)} | unit_sizes
        results = []
        used: set[int] = set()
        for line in problem.steps:
            left, _, right, result = ARITHMETIC.search(line).groups()
            assert {int(left), int(right)} <= known, problem
            used |= {int(left), int(right)}
            known.add(int(result))
            results.append(int(result))
        assert problem.answer in results
        assert set(results) <= used | {problem.answer}, problem


def test_numbers_are_whole_positive_and_short(problems):
    for problem in problems:
        numbers = [int(n) for n in re.findall(r"\d+", problem.text + problem.solution)]
        assert all(0 <= n <= LARGEST for n in numbers)
        assert problem.answer > 0


def test_between_two_and_eight_operations(problems):
    for problem in problems:
        assert 2 <= len(problem.operations) == len(problem.steps) <= 8


def test_no_duplicates(problems):
    assert len({problem.key for problem in problems}) == len(problems)


def test_the_answer_can_be_read_back(problems):
    for problem in problems:
        assert parse_answer(problem.solution) == problem.answer
        assert problem.solution.splitlines()[-1] == f"Answer: {problem.answer}"
        assert problem.prompt == format_prompt(problem.text)


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_are_disjoint(family):
    keys = {
        split: {p.key for seed in range(3) for p in generate(family, split, 300, seed=seed)}
        for split in SPLITS
    }
    for one in SPLITS:
        for other in SPLITS:
            assert one == other or not keys[one] & keys[other]


@pytest.mark.parametrize("family", FAMILIES)
def test_out_of_template_shares_no_template(family):
    held_out = set(template_names(family, held_out=True))
    trained = set(template_names(family))
    assert not held_out & trained
    assert {p.template for p in generate(family, "out_of_template", 300)} == held_out
    assert {p.template for p in generate(family, "pair_train", 600)} == trained


def test_enough_templates():
    assert len(template_names("stories")) >= 20
    assert len(template_names("stories", held_out=True)) >= 4


def test_all_lengths_of_solutions_occur():
    counts = Counter(len(p.operations) for p in generate("stories", "pair_train", 3000))
    assert set(counts) == set(range(2, 9))


def test_same_seed_same_problems():
    assert generate("stories", "test", 50) == generate("stories", "test", 50)
    assert generate("stories", "test", 50) == generate("stories", "test", 80)[:50]
    assert generate("stories", "test", 50, seed=1) != generate("stories", "test", 50)


def test_the_stream_is_lazy():
    assert next(iterate("stories", "test")).family == "stories"


@pytest.mark.parametrize(("family", "split"), [("novels", "test"), ("stories", "exam")])
def test_unknown_names_are_refused_at_once(family, split):
    with pytest.raises(ValueError, match="choose one of"):
        iterate(family, split)


def test_steps_vary_in_wording_order_and_operand_order():
    forms: Counter[str] = Counter()
    swapped: Counter[bool] = Counter()
    for problem in generate("stories", "pair_train", 500):
        for line in problem.steps:
            forms["gives" if " gives " in line else line.split()[0]] += 1
            left, symbol, right, _ = ARITHMETIC.search(line).groups()
            if symbol in "+*":
                swapped[int(left) < int(right)] += 1
    assert all(forms[start] > 100 for start in ("gives", "Now", "Next,", "We"))
    assert min(swapped.values()) > 0.3 * sum(swapped.values())


def test_independent_steps_come_in_any_order():
    import random

    orders = set()
    for seed in range(60):
        story = Story(random.Random(seed), Difficulty())
        x = story.add(story.given(1), story.given(2), "x")
        y = story.add(story.given(3), story.given(4), "y")
        story.multiply(x, y, "z")
        results = [ARITHMETIC.search(line).group(4) for line in story.solution_lines()]
        assert results[-1] == "21"
        orders.add(tuple(results))
    assert orders == {("3", "7", "21"), ("7", "3", "21")}


@pytest.mark.parametrize(
    ("operation", "left", "right"),
    [
        ("subtract", 3, 5),
        ("subtract", 3, 3),
        ("divide", 7, 2),
        ("divide", 7, 0),
        ("multiply", 999, 99),
        ("add", 9999, 1),
    ],
)
def test_results_that_do_not_fit_are_rejected(operation, left, right):
    import random

    story = Story(random.Random(0), Difficulty())
    with pytest.raises(RejectedDrawError):
        getattr(story, operation)(story.given(left), story.given(right), "label")


def test_difficulty_changes_what_it_says():
    calm = Difficulty(digits=(1, 0, 0, 0), hard_multiplication=0, distractors=0, extensions=0)
    wild = Difficulty(digits=(0, 0, 0, 1), hard_multiplication=1, distractors=1, extensions=1)
    easy = generate("stories", "test", 300, difficulty=calm)
    hard = generate("stories", "test", 300, difficulty=wild)
    mean_length = [sum(len(p.operations) for p in ps) for ps in (easy, hard)]
    mean_number = [sum(sum(p.numbers) for p in ps) for ps in (easy, hard)]
    assert mean_length[0] < mean_length[1]
    assert mean_number[0] < mean_number[1]
    side = re.compile(r"(also has|sees) \d+ (chairs|lamps|cats|bikes|hats|kites|drums|cups)\.")
    assert not any(side.search(p.text) for p in easy)
    assert all(side.search(p.text) for p in hard)


def test_the_split_depends_on_numbers_alone():
    key = Key("boxes", (3, 4, 5), ("*", "-"))
    assert split_of(key) == split_of(Key("boxes", (3, 4, 5), ("*", "-")))
    splits = Counter(split_of(Key("boxes", (n,), ("+", "-"))) for n in range(4000))
    assert splits.keys() == set(SPLITS) - {"out_of_template"}
    assert 0.45 < splits["pair_train"] / 4000 < 0.55


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\nAnswer: 7", 7),
        ("Answer: 7\n", 7),
        ("Answer: 1\nAnswer: 2", 2),
        ("Answer: -4", -4),
        ("Answer: ", None),
        ("Answer: 12 apples", None),
        ("The Answer: 12", None),
        ("", None),
    ],
)
def test_parse_answer(text, answer):
    assert parse_answer(text) == answer


def test_forms_are_distinct():
    assert len(set(STEP_FORMS)) == len(STEP_FORMS) >= 4


def test_importing_needs_no_torch():
    code = "import sys, stet.bundled; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
