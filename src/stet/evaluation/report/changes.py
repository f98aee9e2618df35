"""The questions whose grade changed, with both answers token by token, for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stet.evaluation.records import Answer, Results, read_traces
from stet.evaluation.summary import Change, Summary
from stet.pages.words import MISSING, number

LIMIT = 50
"""The most changes shown per policy."""
SIZE = 6_000_000
"""About the most characters of the page for all changes together."""
_TOKEN, _CHANGE = 95, 3_000  # characters of the page for a token, and for the rest of a change

Key = tuple[str, str, int]


@dataclass(slots=True)
class Piece:
    """A token in its text.

    Attributes:
        text: its characters.
        origin: the model that wrote it; empty where there is no trace.
        tip: reason and probabilities.
        accepted_mismatches: whether it was accepted against the target's own choice.
        diverges: whether the two answers first differ here.
    """

    text: str
    origin: str = ""
    tip: str = ""
    accepted_mismatches: bool = False
    diverges: bool = False

    @property
    def css(self) -> str:
        """Its CSS classes."""
        names = (self.origin[:1], "o" * self.accepted_mismatches, "x" * self.diverges)
        return " ".join(name for name in names if name)

    @property
    def shown(self) -> str:
        """Its characters, with a sign for a marked line break or nothing at all."""
        if self.diverges or self.accepted_mismatches:
            return self.text.replace("\n", "↵\n") or "∎"
        return self.text


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two answers to a question."""

    label: str
    answer: str
    right: bool
    facts: str
    pieces: list[Piece]
    traced: bool


@dataclass(frozen=True, slots=True)
class ShownChange:
    """A question with both answers."""

    question: str
    seed: int
    gained: bool
    prompt: str
    expected: str
    mine: Side
    theirs: Side
    parting: str


@dataclass(frozen=True, slots=True)
class PolicyChanges:
    """The changes of one policy; `left_out` of them are not shown."""

    label: str
    gained: int
    lost: int
    shown: list[ShownChange] = field(default_factory=list[ShownChange])
    left_out: int = 0


def policy_changes(results: Results, summary: Summary) -> list[PolicyChanges]:
    """The changes of every policy but the reference, within `LIMIT` and `SIZE`."""
    policies = [policy for policy in summary.policies if not policy.is_reference]
    picked = {policy.label: _pick(policy.changes) for policy in policies}
    traces = _traces(results, summary, picked)
    answers = {answer.key: answer for answer in results.answers}
    questions = {question.id: question for question in results.run.questions}
    room = SIZE // max(1, sum(bool(changes) for changes in picked.values()))
    found = []
    for policy in policies:
        shown: list[ShownChange] = []
        left = room
        for change in picked[policy.label]:
            mine = answers.get((policy.label, change.question, change.seed))
            theirs = answers.get((summary.reference, change.question, change.seed))
            if mine is None or theirs is None:
                continue
            sides = [_side(answer, traces.get(answer.key)) for answer in (mine, theirs)]
            question = questions.get(change.question)
            prompt = question.prompt if question else ""
            left -= _CHANGE + len(prompt)
            left -= sum(_TOKEN * len(side.pieces) + len(side.facts) for side in sides)
            left -= len(mine.text) + len(theirs.text)
            if left < 0:
                break
            shown.append(
                ShownChange(
                    change.question,
                    change.seed,
                    change.gained,
                    prompt,
                    question.reference or MISSING if question else MISSING,
                    sides[0],
                    sides[1],
                    _mark_difference(sides[0], sides[1]),
                )
            )
        gained = sum(change.gained for change in policy.changes)
        lost = len(policy.changes) - gained
        left_out = len(policy.changes) - len(shown)
        found.append(PolicyChanges(policy.label, gained, lost, shown, left_out))
    return found


def _pick(changes: list[Change]) -> list[Change]:
    """Pick at most `LIMIT` changes, of both kinds where there are both, in their order."""
    gained = [change for change in changes if change.gained]
    lost = [change for change in changes if not change.gained]
    half = LIMIT // 2
    keep = gained[: max(half, LIMIT - len(lost))] + lost[: max(half, LIMIT - len(gained))]
    kept = {(change.question, change.seed) for change in keep}
    return [change for change in changes if (change.question, change.seed) in kept]


def _traces(
    results: Results, summary: Summary, picked: dict[str, list[Change]]
) -> dict[Key, dict[str, Any]]:
    """Read the traces of the picked answers and of the reference's on the same questions."""
    wanted: set[Key] = set()
    for label, changes in picked.items():
        for change in changes:
            wanted.add((label, change.question, change.seed))
            wanted.add((summary.reference, change.question, change.seed))
    if not wanted or results.folder is None:
        return {}
    found: dict[Key, dict[str, Any]] = {}
    for line in read_traces(results.folder):
        key = line["policy"], line["question"], line["seed"]
        if key in wanted and line.get("trace"):
            found[key] = line["trace"]
    return found


def _side(answer: Answer, trace: dict[str, Any] | None) -> Side:
    words = [f"{answer.counters.emitted_tokens} tokens", f"{number(answer.seconds, '.2f')} s"]
    if answer.finish_reason != "stop":
        words.append(f"ended by {answer.finish_reason}")
    if answer.error:
        words.append(answer.error)
    if answer.samples > 1:
        votes = sorted(answer.votes.items(), key=lambda vote: (-vote[1], vote[0]))
        said = ", ".join(f"{count} × {text}" for text, count in votes)
        words.append(f"{answer.samples} samples: {said}" if said else f"{answer.samples} samples")
    pieces = list(_pieces(trace, answer.text)) if trace else [Piece(answer.text)]
    said = MISSING if answer.answer is None else answer.answer
    return Side(answer.policy, said, bool(answer.right), "; ".join(words), pieces, bool(trace))


def _pieces(trace: dict[str, Any], text: str) -> Iterator[Piece]:
    """Cut the text at its tokens; one that cannot be placed is joined to the next that can."""
    accepted_mismatches = {
        block["position"] + place
        for block in trace["blocks"]
        for place in block["accepted_mismatches"]
    }
    end, carried = 0, False
    last: Piece | None = None
    for index, token in enumerate(trace["tokens"]):
        piece: str = token["text"] if text.startswith(token["text"], end) else token["text"].strip()
        # Tokens that end inside a character, or begin a text, decode differently alone.
        at = text.find(piece, end, end + len(piece) + 8) if piece else -1
        carried = carried or index in accepted_mismatches
        if at < 0:
            continue
        stop = at + len(piece)
        last = Piece(text[end:stop], token["origin"], _tip(token), carried)
        yield last
        end, carried = stop, False
    if end < len(text):
        yield Piece(text[end:], last.origin if last else "", last.tip if last else "")


def _tip(token: dict[str, Any]) -> str:
    words = [f"{token['origin']}: {token['reason']}"]
    for model in ("target", "draft"):
        probability = token.get(f"p_{model}")
        if probability is not None:
            words.append(f"p({model}) {probability:.3g}")
    return ", ".join(words)


def _mark_difference(mine: Side, theirs: Side) -> str:
    """Mark the first tokens in which two answers differ, and say so in a sentence."""
    texts = ["".join(piece.text for piece in side.pieces) for side in (mine, theirs)]
    if texts[0] == texts[1]:
        return "The texts are equal."
    shorter = min(map(len, texts))
    parting = next((i for i in range(shorter) if texts[0][i] != texts[1][i]), shorter)
    said = []
    for side in (mine, theirs):
        if not side.traced:
            continue
        index, piece = _piece_at(side.pieces, parting)
        piece.diverges = True
        what = repr(piece.text) if piece.text else "the end"
        tip = f" ({piece.tip})" if piece.tip else ""
        said.append(f"{side.label} has {what}{tip}")
        if len(said) == 1:
            said[0] = f"They first differ at token {index + 1}: {said[0]}"
    return "; ".join(said) + "." if said else f"They first differ at character {parting + 1}."


def _piece_at(pieces: list[Piece], offset: int) -> tuple[int, Piece]:
    """The piece with a character; an empty piece is added for the end of the text."""
    start = 0
    for index, piece in enumerate(pieces):
        start += len(piece.text)
        if offset < start:
            return index, piece
    pieces.append(Piece(""))
    return len(pieces) - 1, pieces[-1]
