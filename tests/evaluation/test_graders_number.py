"""The final number: notations, statements, and the answers of two whole data sets."""

from __future__ import annotations

import gzip
import json
import random
import time
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stet.evaluation.graders import Number
from stet.evaluation.graders import number as grading
from stet.evaluation.graders.notation import canonical

DATA = Path(__file__).parents[1] / "data"
GRADER = Number()


def read(name: str) -> list[dict]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


GSM8K = [row["answer"] for row in read("gsm8k_test_answers.jsonl.gz")]
GSM8K_GOLD = [answer.rpartition("####")[2].strip().replace(",", "") for answer in GSM8K]
SVAMP_GOLD = [str(int(row["answer"])) for row in read("svamp_answers.jsonl.gz")]

CARRIERS = (
    "#### {}",
    "The answer is {}.",
    r"Thus $\boxed{{{}}}$.",
    "**Answer:** {}",
    "Step by step,\nit comes to {} dollars.",
    "Final answer: **{}**",
)


NOTATIONS = [
    # thousands
    ("1,234", "1234"),
    ("1,234,567.89", "1234567.89"),
    ("1{,}234", "1234"),
    (r"10,\!000", "10000"),
    (r"10\,000", "10000"),
    ("12 000", "12000"),
    ("12\u202f000", "12000"),
    ("12’000", "12000"),
    ("1,00,000", "100000"),
    # zeros
    ("18.00", "18"),
    ("0.50", "0.5"),
    (".5", "0.5"),
    ("007", "7"),
    ("-0", "0"),
    ("0.0", "0"),
    # signs
    ("-5", "-5"),
    ("−5", "-5"),
    ("–5", "-5"),
    ("+5", "5"),
    ("negative 5", "-5"),
    ("Minus 5", "-5"),
    # currency
    ("$18", "18"),
    (r"\$18", "18"),
    ("$ 18.50", "18.5"),
    ("-$18", "-18"),
    ("$-18", "-18"),
    ("−$1,234.50", "-1234.5"),
    ("£18", "18"),
    ("€18", "18"),
    ("US$18", "18"),
    ("USD 18", "18"),
    ("Rs. 500", "500"),
    # units
    ("18 dollars", "18"),
    ("18kg", "18"),
    ("18 km/h", "18"),
    ("5 m^2", "5"),
    ("5 cm²", "5"),
    (r"18 \text{ eggs}", "18"),
    (r"90^\circ", "90"),
    (r"\text{18 eggs}", "18"),
    # percentages
    ("50%", "50"),
    (r"50\%", "50"),
    ("12.5 %", "12.5"),
    # fractions and mixed numbers
    ("3/4", "0.75"),
    ("1/3", "1/3"),
    ("2/6", "1/3"),
    ("-3/4", "-0.75"),
    (r"\frac{3}{4}", "0.75"),
    (r"\dfrac{3}{4}", "0.75"),
    (r"\frac34", "0.75"),
    (r"-\frac{1}{2}", "-0.5"),
    ("½", "0.5"),
    ("1½", "1.5"),
    ("1 3/4", "1.75"),
    ("1 and 3/4", "1.75"),
    (r"1\frac{3}{4}", "1.75"),
    ("-1 3/4", "-1.75"),
    ("3⁄4", "0.75"),
    # scientific
    ("1.2e5", "120000"),
    ("1.2E+5", "120000"),
    ("5e-3", "0.005"),
    ("1.2 × 10^5", "120000"),
    ("1.2 x 10^5", "120000"),
    (r"1.2 \times 10^{5}", "120000"),
    (r"1.2 \cdot 10^{-3}", "0.0012"),
    ("1.2 × 10⁵", "120000"),
    ("10^6", "1000000"),
    ("10⁶", "1000000"),
    ("2**10", "1024"),
    # words for powers of ten
    ("2 million", "2000000"),
    ("$1.5 billion", "1500000000"),
    # emphasis
    ("**18**", "18"),
    ("*18*", "18"),
    ("__18__", "18"),
    ("`18`", "18"),
    ("$18$", "18"),
    ("$$18$$", "18"),
    (r"\(18\)", "18"),
    ("x = 18", "18"),
    ("１８", "18"),
]


@pytest.mark.parametrize(("written", "value"), NOTATIONS)
@pytest.mark.parametrize("carrier", ["{}", "#### {}", "Answer: {}", "The answer is {}."])
def test_every_notation_of_a_number_is_one_answer(written, value, carrier):
    answer = GRADER.extract(carrier.format(written))
    assert answer == value
    assert GRADER.right(answer, value)
    assert GRADER.right(answer, written) or written == "x = 18"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # the statement, not what follows it
        ("The answer is 5 apples in 2 days.", "5"),
        ("#### 18\nChecked 3 times.", "18"),
        ("Answer: 18\nExplanation: 16 - 3 = 13 and so on.", "18"),
        (r"So \boxed{18} after 3 days.", "18"),
        ("The final answer is $\\boxed{18}$. I checked it 2 times.", "18"),
        ("**Final Answer:**\n\n$18", "18"),
        ("Final answer = 18, that is 2 times 9.", "18"),
        ("The answer to the problem is therefore 18 eggs for 3 days.", "18"),
        ("The answer would be $18 for 2.", "18"),
        ("ANSWER: 18 of 20", "18"),
        ("The answer is: 18 (in 3 days)", "18"),
        ("The correct answer is approximately 18 in 3 days", "18"),
        # the last statement
        (r"The answer is 17. Wait. \boxed{18}", "18"),
        (r"\boxed{17} is wrong. The answer is 18.", "18"),
        ("#### 17\n#### 18", "18"),
        (r"\boxed{\frac{\frac{1}{2}}{3}} no, \boxed{\dfrac{\text{3}}{4}}, well, \boxed{7}", "7"),
        # equations: the right side
        ("The answer is 16 - 3 - 4 = 9 eggs in 2 days.", "9"),
        ("Answer: 3 boxes × 6 = 18 eggs for 2 days", "18"),
        ("Answer: 18 (because 9 * 2 = 18 and 3 + 4 = 7)", "18"),
        (r"\boxed{x = 18}", "18"),
        (r"\boxed{9 \times 2 = 18}", "18"),
        # working after "Answer:", and headings, are no statements
        ("Answer: Janet sells 16 - 3 - 4 = 9 eggs.\nShe makes 9 * 2 = $18", "18"),
        ("Answer: 16 - 3 - 4 = 9 eggs.\nShe makes 9 * 2 = $18", "18"),
        ("Answer:\n1. Count 3 apples.\n2. Add 4, which gives 7", "7"),
        ("#### 1. Count the eggs\nThere are 18", "18"),
        ("#### Step 2\nThat makes 18", "18"),
        ("The answer is not 17 but 18", "18"),
        ("The answer is clear: he has 3 + 4, which is 7", "7"),
        # nothing stated: the last number, by convention
        ("so 5 apples in 2 days", "2"),
        ("She has 3 and gets 4, so 7.", "7"),
        ("He is 2nd with 18 points, before the 3rd", "18"),
        ("He came in 3rd", "3"),
        ("She makes 9 * 2 = $<<9*2=18>>18 every day", "18"),
        ("10 - 3", "3"),
        ("between 10-15", "15"),
        ("I used x2 and H2O, so 7", "7"),
        # thoughts are not the answer
        ("<think>Answer: 3</think>It is 18", "18"),
        ("Answer: 3</think>\n18 in all", "18"),
    ],
)
def test_what_is_stated_counts_and_then_the_last_number(text, answer):
    assert GRADER.extract(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I do not know.",
        "H2O",
        "at 3:45",
        "on 3/4/2020",
        "version 1.2.3",
        "The ratio is 3:2",
        "5/0",
        "1e999999999",
        "1" * 5000,
        "<think>it is 18",
        "9 * 2 = 18. Answer: unknown",
        "9 * 2 = 18\n**Answer:**",
        r"9 * 2 = 18, but \boxed{\text{no solution}}",
        r"\boxed{(18, 3)}",
        r"\boxed{18, 3}",
    ],
)
def test_no_answer_is_none_and_never_right(text):
    answer = GRADER.extract(text)
    assert answer is None
    assert not GRADER.right(answer, "18")
    assert not GRADER.right(answer, "")


EXPRESSIONS = find_spec("math_verify") is not None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{10^{-3}}", "0.001"),
        ("10^{-3}", "0.001"),
        ("Answer: 10^-3", "0.001"),
        ("The answer is 10⁻³.", "0.001"),
        (r"\frac{3}{-4}", "-0.75"),
        (r"\boxed{\frac{3}{-4}}", "-0.75"),
        (r"\boxed{\frac{-3}{-4}}", "0.75"),
        (r"\frac{1}{1,000}", "0.001"),
        ("3/4.5", "2/3"),
        (r"\boxed{2\sqrt{3}}", None),
        (r"\boxed{2\pi}", None),
        (r"\boxed{3x}", None),
        (r"\boxed{\frac{\pi}{4}}", None),
        ("$20k", "20000"),
        ("<answer>42</answer> That took 3 steps.", "42"),
        (r"\boxed{\sqrt{16}}", "4"),
        (r"\boxed{2 \times 3}", "6"),
        (r"\boxed{\frac{1+2}{3}}", "1"),
        (r"\boxed{(-2)^3}", "-8"),
        (r"\boxed{\frac{\frac{1}{2}}{3}}", "1/6"),
        (r"\boxed{5!}", "120"),
        (r"\boxed{\frac{6}{\sqrt{4}}}", "3"),
        (r"The answer is $2\sqrt{3}$.", None),
        (r"#### 2\sqrt{3}", None),
        (r"The answer is $\frac{\pi}{4}$", None),
        (r"so it is $2\pi$", None),
        ("The answer is 3x.", None),
        (r"\boxed{x \geq 5}", None),
        (r"\boxed{x > 5}", None),
        (r"\boxed{\pm 5}", None),
        (r"\boxed{x^2}", None),
        (r"\boxed{3n+1}", None),
        (r"\boxed{x + 3}", None),
        (r"\boxed{x - 3}", None),
        (r"\boxed{3(x+1)}", None),
        (r"\boxed{3:1}", None),
        (r"\boxed{10-15}", None),
        (r"\boxed{3/4/2020}", None),
        (r"\boxed{18 \text{ eggs}}", "18"),
        (r"\boxed{18\text{ dollars}}", "18"),
        (r"\boxed{18 eggs}", "18"),
        (r"\boxed{\$18}", "18"),
        (r"\boxed{\$18.00}", "18"),
        (r"\boxed{18\%}", "18"),
        (r"\boxed{5 \text{ m}}", "5"),
        (r"\boxed{5 m^2}", "5"),
        (r"\boxed{90^\circ}", "90"),
        (r"\boxed{12\,\text{cm}}", "12"),
        (r"\boxed{18.}", "18"),
        (r"\boxed{1\,000}", "1000"),
        (r"\boxed{1{,}000}", "1000"),
        (r"\boxed{\textbf{18}}", "18"),
        (r"\boxed{\mathbf{18}}", "18"),
        (r"\boxed{\text{\$}18}", "18"),
        (r"\boxed{\text{Janet makes } 18 \text{ dollars}}", "18"),
        (r"\boxed{60 \text{ km/h}}", "60"),
        (r"\boxed{60 \text{ miles per hour}}", "60"),
        (r"\boxed{18 \text{ (eggs)}}", "18"),
        (r"\boxed{3 \text{ and } 4}", None),
        (r"\boxed{3\frac{1}{2}}", "3.5"),
        (r"\boxed{\underline{18}}", "18"),
        (r"\boxed{-\frac12}", "-0.5"),
        (r"\boxed{x = 2\sqrt{3}}", None),
        (r"\boxed{9 \times 2 = 18}", "18"),
        (r"\boxed{2\frac{\pi}{3}}", None),
        ("$1.5M", "1500000"),
        ("$2 billion", "2000000000"),
        ("$3bn", "3000000000"),
        ("5m", "5"),
        ("5 m tall", "5"),
        ("20k", "20000"),
        ("20K people", "20000"),
        ("18kg", "18"),
        ("5km", "5"),
        ("3 hundred", "300"),
        ("$18k/year", "18000"),
        ("-$5k", "-5000"),
        ("£20k", "20000"),
        ("5mm", "5"),
        ("3b", "3"),
        (r"<answer>\boxed{42}</answer> in 3 steps", "42"),
        ("<answer>She has 3 boxes of 6, so 18</answer>", "18"),
        ("<answer> $18 </answer>", "18"),
        (r"<answer>2\sqrt{3}</answer>", None),
        ("<answer>unknown</answer> 3", None),
        ("<ANSWER>7</ANSWER> ok 3", "7"),
        ("<final_answer>7</final_answer> ok 3", "7"),
        ("<answer>5", "5"),
        ("**18**", "18"),
        ("The answer is 18!", "18"),
        ("The answer is **$18**.", "18"),
        (r"Therefore $18 \implies 20$", "20"),
        (r"We get x \Rightarrow 18", "18"),
        ("twenty", None),
        ("2e3", "2000"),
        ("50%", "50"),
        ("1.5 million", "1500000"),
        (r"The final answer is: $\boxed{18}$", "18"),
        ("18 (eighteen)", "18"),
        ("Answer: 18 a day", "18"),
        ("It is 5 a day", "5"),
        ("The answer is 18/day", "18"),
        ("Answer: 3 x 6 = 18", "18"),
        (r"Answer: 18\text{ eggs}", "18"),
        (r"\[ 3 + 4 = 7 \]", "7"),
        (r"= \frac{21}{3} = 7", "7"),
        (r"Answer: $\frac{21}{3}$", "7"),
    ],
)
def test_a_number_is_told_from_an_expression(text, answer):
    if not EXPRESSIONS and r"\boxed" in text and answer is not None:
        pytest.skip("needs the package math-verify")
    assert GRADER.extract(text) == answer


def test_an_expression_is_asked_about_only_where_it_may_be_a_number(monkeypatch):
    asked = []
    monkeypatch.setattr(grading, "ask", lambda _, latex: asked.append(latex) or "4")
    monkeypatch.setattr(grading, "available", lambda: True)
    for content in (
        "18",
        "18 eggs",
        r"\$18",
        "3x",
        r"2\pi",
        "1, 2",
        "(1, 2)",
        r"\text{none}",
        "x = 18",
    ):
        GRADER.extract(rf"\boxed{{{content}}}")
    assert asked == []
    assert GRADER.extract(r"\boxed{x = \left(\sqrt{16}\right)}") == "4"
    assert [latex.split() for latex in asked] == [[r"(\sqrt{16}", ")"]]


def test_without_the_last_number_only_statements_count():
    strict = Number(last_number=False)
    assert strict.extract("so 5 apples") is None
    assert strict.extract("so 5 apples. The answer is 5.") == "5"
    assert strict.settings == {"last_number": False, "tolerance": 0.0}


def test_a_tolerance_is_a_share_of_the_reference():
    near = Number(tolerance=0.01)
    assert near.right("0.333", "1/3")
    assert not near.right("0.32", "1/3")
    assert not near.right("-0.333", "1/3")
    assert near.right("-100.5", "-100")
    assert not Number().right("0.333", "1/3")


def test_references_are_numbers_or_state_one():
    assert GRADER.reads("1,234 eggs")
    assert GRADER.reads("9 * 2 = 18\n#### 18")
    assert GRADER.right("18", "9 * 2 = 18\n#### 18")
    for unread in (
        "",
        "east",
        r"3\pi",
        "(1, 2)",
        "3 + x",
        "about 5 or 6",
        "3x",
        r"2\sqrt{3}",
        r"\frac{\pi}{4}",
    ):
        assert not GRADER.reads(unread)
        assert not GRADER.right("3", unread)


def test_the_answers_of_gsm8k_are_right_as_they_are_written():
    assert len(GSM8K) == 1319
    wrong = [a for a, gold in zip(GSM8K, GSM8K_GOLD, strict=True) if GRADER.extract(a) != gold]
    assert wrong == []
    assert all(GRADER.right(gold, answer) for answer, gold in zip(GSM8K, GSM8K_GOLD, strict=True))


def test_worked_solutions_without_their_last_line_mostly_end_in_the_answer():
    working = [answer.rpartition("####")[0] for answer in GSM8K]
    found = sum(GRADER.extract(w) == gold for w, gold in zip(working, GSM8K_GOLD, strict=True))
    assert found / len(GSM8K) > 0.96


def forms(gold: str) -> list[str]:
    value = int(gold)
    return [
        gold,
        f"{value:,}",
        f"{value}.00",
        f"{value:,}.0",
        gold.replace("-", "−"),
        f"{'-' if value < 0 else ''}${abs(value):,}",
        f"{value} eggs",
        f"{2 * value}/2",
    ]


@pytest.mark.parametrize("golds", [GSM8K_GOLD, SVAMP_GOLD], ids=["gsm8k", "svamp"])
def test_every_gold_answer_is_right_in_every_form(golds):
    wrong = []
    for index, gold in enumerate(golds):
        for number, form in enumerate(forms(gold)):
            text = CARRIERS[(index + number) % len(CARRIERS)].format(form)
            if not GRADER.right(GRADER.extract(text), gold):
                wrong.append((text, gold))
    assert wrong == []


def perturbed(gold: str) -> list[str]:
    """An answer with a mistake put into it."""
    value = int(gold)
    digits = gold.removeprefix("-")
    sign = "-" if value < 0 else ""
    swapped = [
        f"{sign}{digits[:i]}{digits[i + 1]}{digits[i]}{digits[i + 2 :]}"
        for i in range(len(digits) - 1)
        if digits[i] != digits[i + 1]
    ]
    dropped = [f"{sign}{digits[:-1]}"] if len(digits) > 1 else []
    shifted = [] if value == 0 else [f"{value}0", canonical(Fraction(value, 10))]
    flipped = [] if value == 0 else [str(-value)]
    return [
        str(value + 1),
        str(value - 1),
        f"{value}.5",
        f"{value}1",
        f"{value:,}.01",
        *flipped,
        *shifted,
        *swapped[:2],
        *dropped,
        f"{value}/3" if value else "1/3",
        f"{value}:30",
        f"{value}, {value + 1}",
    ]


@pytest.mark.parametrize("golds", [GSM8K_GOLD, SVAMP_GOLD], ids=["gsm8k", "svamp"])
def test_every_perturbed_answer_is_wrong(golds):
    right = []
    for index, gold in enumerate(golds):
        for number, mistake in enumerate(perturbed(gold)):
            text = CARRIERS[(index + number) % len(CARRIERS)].format(mistake)
            if GRADER.right(GRADER.extract(text), gold):
                right.append((text, gold))
    assert right == []


@given(st.fractions(max_denominator=10**6), st.randoms(use_true_random=False))
def test_canonical_values_read_back_and_are_unique(value: Fraction, rng: random.Random):
    written = canonical(value)
    assert GRADER.extract(rng.choice(CARRIERS).format(written)) == written
    assert GRADER.right(written, f"{value.numerator}/{value.denominator}")
    assert not GRADER.right(canonical(value + Fraction(1, 10**6)), written)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9))
def test_decimals_mean_their_value(number):
    written = canonical(Fraction(number))
    assert GRADER.extract(f"Answer: {number:f}") == written
    assert GRADER.extract(f"Answer: {number:e}") == written
    assert GRADER.extract(f"Answer: ${number:,f}".replace("$-", "-$")) == written


@given(st.text(alphabet="0123456789 .,-+/^%$(){}\\*=:#answer is\nboxed{frac½×²", max_size=80))
def test_no_text_breaks_the_grader(text: str):
    answer = GRADER.extract(text)
    assert answer is None or GRADER.right(answer, answer)


@pytest.mark.parametrize(
    "piece", ["1", "1,", "100 ", "1/", "\\boxed{", "#### ", "answer: 5 = ", "answer:\n", "(a=", " "]
)
def test_endless_repetition_takes_no_endless_time(piece: str):
    began = time.process_time()
    GRADER.extract(piece * (40_000 // len(piece)))
    assert time.process_time() - began < 20
