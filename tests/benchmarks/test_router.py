"""The question router beside policies: it finds what words tell, and nothing else."""

import random
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def router(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import _router

    yield _router
    sys.modules.pop("_router", None)


def questions(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    things = ("marbles", "gundos", "coins", "stamps")
    return [
        f"Ann has {rng.randint(2, 999)} {rng.choice(things)}. How many are left?"
        for _ in range(count)
    ]


def test_it_learns_what_words_tell(router):
    asked, others = questions(300, 0), questions(200, 1)
    draft = ["gundos" in q for q in asked]
    found = router.fit(asked, [not d for d in draft], draft)
    assert found.questions == 300
    chosen = found.chooses_draft(others)
    assert chosen == ["gundos" in q for q in others]


def test_questions_that_both_or_neither_answer_right_tell_nothing(router):
    asked = questions(300, 0)
    tie = [i % 3 == 0 for i in range(300)]
    target = [True if t else i % 3 == 1 for i, t in enumerate(tie)]
    draft = [True if t else i % 3 == 2 for i, t in enumerate(tie)]
    assert router.fit(asked, target, draft).questions == 200


def test_chance_is_not_learnt(router):
    rng = random.Random(2)
    asked, others = questions(400, 0), questions(400, 1)
    draft = [rng.random() < 0.3 for _ in asked]  # whatever they say
    found = router.fit(asked, [not d for d in draft], draft)
    assert sum(found.chooses_draft(others)) < 40


def test_words_are_known_without_their_numbers(router):
    assert router.words_of("Ann has 12 tins. Bo has 345.") == {
        "ann",
        "has",
        "<2 digits>",
        "<3 digits>",
        "tins",
        "bo",
        "<2 sentences>",
    }
