"""Graders other than the number's, and finding them by name."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import ClassVar

import pytest

from stet.bundled import generate
from stet.core.errors import OptionError, StetError
from stet.evaluation.graders import (
    AnswerLine,
    Choice,
    ExactGrader,
    FunctionGrader,
    Grader,
    MathVerify,
    Number,
    available_graders,
    expressions,
    register,
    resolve_grader,
)
from stet.evaluation.graders.registry import GRADERS


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> type:
    """A grader with a setting, registered for one test."""
    monkeypatch.setattr(GRADERS, "_classes", dict(GRADERS._classes))

    @register
    @dataclass(frozen=True)
    class Length(Grader):
        """How long it is."""

        name: ClassVar[str] = "length"
        most: int = 3

        def extract(self, text: str) -> str | None:
            return str(len(text))

        def right(self, answer: str | None, reference: str) -> bool:
            return answer is not None and int(answer) <= self.most

    return Length


# By name


def test_the_built_in_graders_are_found_and_described():
    known = {cls.name: cls for cls in available_graders()}
    assert {"number", "choice", "exact", "answer-line", "math-verify"} <= set(known)
    assert known["number"] is Number
    for cls in known.values():
        assert (cls.__doc__ or "").strip()
        assert isinstance(resolve_grader(cls.name), Grader)


def test_a_registered_grader_is_made_with_its_settings(own: type):
    assert resolve_grader("length") == own(3)
    assert resolve_grader("length", {"most": 5}).settings == {"most": 5}
    assert own in available_graders()
    assert own().reads("x")
    assert not own().reads(" ")


def test_unknown_names_and_settings_are_refused_with_the_known_ones(own: type):
    with pytest.raises(OptionError, match="choice, exact, length, math-verify, number"):
        resolve_grader("nummer")
    with pytest.raises(OptionError, match="'least'; it has: most"):
        resolve_grader("length", {"least": 1})
    with pytest.raises(OptionError, match="finished"):
        resolve_grader(own(), {"most": 1})


def test_two_graders_cannot_share_a_name(own: type):
    class Another(own):
        pass

    with pytest.raises(OptionError, match="exists already"):
        register(Another)


def test_an_entry_point_of_another_package_is_found(own: type, monkeypatch: pytest.MonkeyPatch):
    class Elsewhere(own):
        name: ClassVar[str] = "elsewhere"

    class Entry:
        def load(self) -> type:
            return Elsewhere

    monkeypatch.setattr(GRADERS, "_entry_points_loaded", False)
    monkeypatch.setattr("stet.core.registry.entry_points", lambda group: [Entry()])
    assert isinstance(resolve_grader("elsewhere"), Elsewhere)


# A function


def same_length(answer: str, reference: str) -> bool:
    return len(answer) == len(reference)


def test_a_function_grades_by_the_whole_text():
    grader = FunctionGrader(same_length)
    assert isinstance(grader, Grader)
    assert grader.extract("<think>long thoughts</think> abc\n") == "abc"
    assert grader.extract("  ") is None
    assert grader.right("abc", "xyz")
    assert not grader.right("ab", "xyz")
    assert not grader.right(None, "")
    assert grader.settings["check"].endswith(":same_length")


def test_a_function_is_named_by_module_and_name(monkeypatch: pytest.MonkeyPatch, own: type):
    module = ModuleType("my_checks")
    module.same_length, module.Own, module.made, module.seven = same_length, own, own(9), 7
    monkeypatch.setitem(sys.modules, "my_checks", module)
    grader = resolve_grader("my_checks:same_length")
    assert grader.right("ab", "cd")
    assert grader.settings["check"] == "my_checks:same_length"
    assert resolve_grader("my_checks:Own") == own()
    assert resolve_grader("my_checks:made") == own(9)
    with pytest.raises(OptionError, match="neither a grader nor a function"):
        resolve_grader("my_checks:seven")
    for missing in ("my_checks:absent", "no_such_module_here:x", ":x"):
        with pytest.raises(OptionError, match="cannot be imported"):
            resolve_grader(missing)


# The bundled models' answer line


def test_the_answer_line_grades_the_bundled_solutions():
    grader = AnswerLine()
    for problem in generate("stories", "test", 20) + generate("units", "test", 20):
        reference = str(problem.answer)
        assert grader.reads(reference)
        assert grader.right(grader.extract(problem.solution), reference)
        wrong = problem.solution.replace(f"Answer: {reference}", f"Answer: {problem.answer + 1}")
        assert not grader.right(grader.extract(wrong), reference)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Sum: 1 + 2 = 3\nAnswer: 3", "3"),
        ("Answer: 3\nAnswer: 4 \n", "4"),
        ("Answer: -3", "-3"),
        ("Answer: 007", "7"),
        ("Sum: 1 + 2 = 3", None),
        ("The answer is 3.", None),
        ("Answer: 3 eggs", None),
        ("#### 3", None),
        ("Answer: " + "1" * 5000, None),
    ],
)
def test_the_answer_line_has_no_fallback(text, answer):
    assert AnswerLine().extract(text) == answer


def test_the_answer_line_compares_whole_numbers():
    grader = AnswerLine()
    assert grader.right("3", " 3 ")
    assert not grader.right(None, "3")
    assert not grader.reads("3.5")
    assert not grader.right("3", "three")


# Choices


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B) 5 apples", "B"),
        ("B. Paris", "B"),
        ("**B**", "B"),
        ("The answer is B.", "B"),
        ("The answer is (b)", "B"),
        ("the answer is b.", "B"),
        ("The correct answer is **B**: 5", "B"),
        ("Answer: B) 5 apples", "B"),
        ("**Answer: (C)**", "C"),
        ("Answer: option E, because", "E"),
        ("Answer: A", "A"),
        ("#### D", "D"),
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{(B)}}", "B"),
        (r"$\boxed{\textbf{(B)}\ 5}$", "B"),
        ("I choose C because A is wrong", "C"),
        ("The correct option is D, not (A)", "D"),
        ("Of A, B and C the answer is therefore C. (A) is wrong.", "C"),
        ("The answer is A. No, the answer is B.", "B"),
        ("(A) is 3 and (B) is 5. It must be (B)", "B"),
        ("Thinking of A and C\nB", "B"),
        ("so B", "B"),
        ("<think>The answer is A</think>The answer is B", "B"),
        # no choice
        ("", None),
        ("no idea", None),
        ("The answer is a dog", None),
        ("Answer: A man comes", None),
        ("A dog", None),
        ("It is B-positive", None),
        ("the answer is F", None),
        ("BE", None),
    ],
)
def test_choices(text, letter):
    assert Choice().extract(text) == letter


def test_choices_compare_with_letters_in_any_dress():
    grader = Choice()
    for reference in ("B", "b", "(B)", "B."):
        assert grader.reads(reference)
        assert grader.right("B", reference)
        assert not grader.right("A", reference)
        assert not grader.right(None, reference)
    for unread in ("F", "", "AB", "5"):
        assert not grader.reads(unread)
    assert Choice(letters="ABCDEFGHIJ").extract("The answer is I.") == "I"
    with pytest.raises(OptionError, match="give capitals"):
        Choice(letters="a-e")


# Words


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes.", "yes"),
        ("It is so.\nThe answer is **Yes**.", "yes"),
        ("First this.\n\n New  York ", "new york"),
        ("Answer:\nParis", "paris"),
        ("#### Paris\nor so", "paris"),
        (r"\boxed{\text{No}}", "no"),
        ("<think>Answer: yes</think>no", "no"),
        ("“Paris”", "paris"),
        ("", None),
        ("...", None),
    ],
)
def test_words(text, answer):
    assert ExactGrader().extract(text) == answer


def test_words_compare_without_case_or_with():
    assert ExactGrader().right("new york", "New  York.")
    assert not ExactGrader().right("york", "New York")
    assert not ExactGrader().right(None, "")
    assert not ExactGrader(case=True).right("paris", "Paris")
    assert ExactGrader(case=True).extract("Paris!") == "Paris"
    assert not ExactGrader().reads("?")


# Expressions

COLUMN = r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"
needs_math_verify = pytest.mark.skipif(
    find_spec("math_verify") is None,
    reason="needs the package math-verify",
)


@needs_math_verify
@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        ((r"\boxed{\frac{1}{2}}", r"It is \boxed{\dfrac12}.", "The answer is 0.5"), "0.5"),
        ((r"\boxed{x+1}", "$1+x$"), "x + 1"),
        ((r"\boxed{\frac{\sqrt3}{2}}", r"\boxed{\sqrt{3}/2}"), r"\frac{\sqrt{3}}{2}"),
        ((r"\boxed{\{1,2\}}", r"\boxed{\{2, 1\}}"), r"\left\{1, 2\right\}"),
        ((r"\boxed{3\pi}",), r"3 \pi"),
        ((r"\boxed{10,\!000}", r"\boxed{10000}"), "10000"),
        ((r"\boxed{\text{east}}",), "east"),
        (("", "no answer here", "<think>$5$"), None),
    ],
)
def test_equal_expressions_are_one_string(texts, answer):
    grader = MathVerify()
    assert [grader.extract(text) for text in texts] == [answer] * len(texts)


@needs_math_verify
@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        (r"\boxed{0.5}", r"\frac{1}{2}", True),
        (r"\boxed{-0.5}", r"\frac{1}{2}", False),
        (r"\boxed{1+x}", "x+1", True),
        (r"\boxed{x-1}", "x+1", False),
        (r"\boxed{(1,2]}", "(1,2]", True),
        (r"\boxed{[1,2]}", "(1,2]", False),
        (r"\boxed{\left(3,\frac{\pi}{2}\right)}", r"\left( 3, \frac{\pi}{2} \right)", True),
        (r"\boxed{6-5i}", "6 - 5i", True),
        (r"\boxed{6+5i}", "6 - 5i", False),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", True),
        (r"\boxed{\text{Debra}}", r"\text{Evelyn}", False),
        (r"\boxed{50\%}", r"50\%", True),
        (r"\boxed{90}", r"90^\circ", True),
        (
            r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}",
            COLUMN,
            True,
        ),
        (
            r"\boxed{\begin{pmatrix}2\\1\end{pmatrix}}",
            COLUMN,
            False,
        ),
        (r"\boxed{1,-2}", "-2, 1", True),
        (r"\boxed{11\sqrt{2}}", r"11\sqrt2", True),
        (r"\boxed{11111111100}", r"11,\! 111,\! 111,\! 100", True),
        (r"\boxed{\$32{,}348}", r"\$32,\!348", True),
        ("I do not know", "5", False),
    ],
)
def test_expressions_are_compared_by_value(text, reference, right):
    grader = MathVerify()
    assert grader.reads(reference)
    assert grader.right(grader.extract(text), reference) is right


@needs_math_verify
def test_expressions_are_graded_in_any_thread():
    seen: list[bool] = []
    grader = MathVerify()
    thread = threading.Thread(
        target=lambda: seen.append(grader.right(grader.extract(r"\boxed{7}"), "7"))
    )
    thread.start()
    thread.join()
    assert seen == [True]


@needs_math_verify
def test_what_takes_too_long_is_no_answer_and_the_next_is_graded_again(monkeypatch):
    endless = "9^{9^{9^{9}}}"
    monkeypatch.setattr(expressions, "_ASKED", (asked := expressions._Asked()))
    results: dict[str, object] = {}

    def grade(name: str, reference: str, text: str) -> None:
        grader = MathVerify()
        results[name] = grader.right(grader.extract(text), reference)

    # From a thread, where no signal can be received, with another one waiting its turn.
    threads = [
        threading.Thread(target=grade, args=args)
        for args in (("endless", "5", rf"\boxed{{{endless}}}"), ("other", "5", r"\boxed{5}"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"endless": False, "other": True}
    assert MathVerify().right("5", "5")
    asked.close()
    assert MathVerify().right("5", "5")  # a new process
    asked.close()


@needs_math_verify
def test_the_process_of_math_verify_ends_with_the_program():
    code = (
        "from stet.evaluation.graders import MathVerify, expressions\n"
        "assert MathVerify().right('1/2', '0.5')\n"
        "print(expressions._ASKED._process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
    assert done.stderr == ""


def test_answer_tags_are_read_by_every_grader():
    text = "<answer> {} </answer> That took 3 steps, and A was easy."
    assert Number().extract(text.format("42")) == "42"
    assert ExactGrader().extract(text.format("East")) == "east"
    assert Choice().extract(text.format("B")) == "B"


def test_a_missing_package_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(StetError, match=r"pip install 'stet-decoding\[tasks\]'"):
        resolve_grader("math-verify")
    # The number's grader can do without it.
    assert Number().extract(r"\boxed{\sqrt{16}}") is None
    assert Number().extract(r"\boxed{16}") == "16"
