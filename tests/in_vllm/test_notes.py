"""What became of each block, on its way to the client."""

from __future__ import annotations

import pickle

import torch

from stet.policies import Exact, TopK
from stet_vllm.desk import Choice
from stet_vllm.notes import UNDRAFTED, Answer, Note, notes_of, packed
from stet_vllm.verify import Rulings

TOP = Choice("mine", TopK())
EXACT = Choice("exact", Exact())


def rulings() -> Rulings:
    return Rulings(
        tokens=torch.tensor([[5, 6, -1], [7, -1, -1], [8, 9, 3]]),
        emitted=torch.tensor([2, 1, 3]),
        drafted=torch.tensor([2, 0, 2]),
        accepted=torch.tensor([2, 0, 2]),
        codes=torch.tensor([[0, 3, 2], [2, 0, 0], [0, 0, 2]], dtype=torch.int8),
        mismatches=torch.tensor([1, 0, 0]),
    )


def test_notes_say_what_each_policy_said():
    table = packed(rulings()).tolist()
    notes = notes_of(table, ["a", "b", "c"], [TOP, TOP, EXACT], {})
    assert notes["a"] == Note("mine", 2, 2, ("accepted", "accepted_mismatch"))
    assert notes["b"] == Note("mine", 0, 0, ("bonus",))
    assert notes["c"] == Note("exact", 2, 2, ("accepted", "accepted", "bonus"))
    assert pickle.loads(pickle.dumps(notes)) == notes  # they travel between processes


def test_a_failed_policys_note_is_that_of_the_one_that_decided():
    notes = notes_of(packed(rulings()).tolist(), ["a", "b", "c"], [TOP, TOP, TOP], {2: "E: no"})
    assert notes["c"] == Note("exact", 2, 2, ("accepted", "accepted", "bonus"), "E: no")
    answer = Answer(TOP)
    answer.add([8, 9, 3], notes["c"])
    assert answer.record()["problem"] == "E: no; 'exact' decided instead"


class OtherWords(Exact):
    reasons = ("fine", "mended", "one more")


def test_reasons_are_in_the_words_of_whoever_decided():
    own = Choice("other", OtherWords())
    notes = notes_of(packed(rulings()).tolist(), ["a", "b", "c"], [TOP, TOP, own], {})
    assert notes["c"].reasons == ("fine", "fine", "one more")
    notes = notes_of(packed(rulings()).tolist(), ["a", "b", "c"], [TOP, TOP, own], {2: "E: no"})
    assert notes["c"].reasons == ("accepted", "accepted", "bonus")
    assert [notes["c"].origin(place) for place in range(3)] == ["draft", "draft", "target"]


def test_an_answers_record():
    answer = Answer(TOP)
    answer.add([1], None)  # after the prompt nothing was drafted
    answer.add([5, 6], Note("mine", 2, 2, ("accepted", "accepted_mismatch")))
    answer.add([7], Note("mine", 0, 0, ("bonus",)))
    answer.add([8], Note("mine", 3, 1, ("accepted", "recovered")))  # a stop cut the rest
    assert answer.record() == {
        "policy": "mine",
        "lossless": False,
        "tokens": [
            {"id": 1, "origin": "target", "reason": UNDRAFTED},
            {"id": 5, "origin": "draft", "reason": "accepted"},
            {"id": 6, "origin": "draft", "reason": "accepted_mismatch"},
            {"id": 7, "origin": "target", "reason": UNDRAFTED},
            {"id": 8, "origin": "draft", "reason": "accepted"},
        ],
    }
