"""Remote and cross-tokenizer programs, driven by a script in place of the engine and its models."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

import tongues
from stet.core.acceptance import Acceptance
from stet.core.block import Block, Reading
from stet.core.errors import StetError
from stet.core.limits import Limits
from stet.core.operations import Await, Draft, Join, Operation, Program, Score
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.core.step_policy import StepPolicy
from stet.core.steps import ends_of
from stet.policies import Step, StepDecision
from stet.programs.cross_tokenizer import UNREADABLE, UNTRANSLATABLE, CrossTokenizerTarget
from stet.programs.remote import CUT, EndpointTarget, remote_autoregressive
from stet.programs.remote_writer import WRITTEN, RemoteText, RemoteWriter
from stet.programs.stepwise import stepwise
from stet.remote.abilities import Abilities
from stet.remote.completion import Completion
from stet.text.codec import Codec

TARGET, DRAFT = tongues.byte_level(400), tongues.byte_level(300)
PROMPT = "Ann has 3 boxes.\n"


@dataclass(frozen=True)
class Scripted(StepPolicy):
    """Accepts the steps that it is told to, and may have the target read them first."""

    accepts: tuple[bool, ...]
    reads: bool = False
    step_tokens: int = 40
    target_candidates: int = 1
    delimiter: str = "\n"
    candidates: int = 1
    shadow: bool = False
    needs: frozenset = frozenset()
    readings: list[Reading] = field(default_factory=list)

    name: ClassVar[str] = "scripted"
    lossless: ClassVar[bool] = False

    def sampling(self, base):
        return base

    def select(self, candidates):
        return 0

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        if self.reads:
            self.readings.append((yield from step.read(0)))
        return StepDecision(0, self.accepts[step.index], "as told")


@dataclass
class Stage:
    """Answers operations: the draft and the target write what the script says, in their tokens."""

    draft: list[list[int]] = field(default_factory=list)
    target: list[list[int]] = field(default_factory=list)
    remote_texts: list[RemoteText] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    read: list[list[int]] = field(default_factory=list)

    def run(self, program: Program) -> Any:
        """Drive a program to its end; returns what it returns."""
        answer: Any = None
        while True:
            try:
                operation = program.send(answer)
            except StopIteration as stop:
                return stop.value
            self.log.append(type(operation).__name__)
            match operation:
                case Join(programs=programs):
                    answer = [self.run(each) for each in programs]
                case Draft(count=count, until=until):
                    answer = self.run_draft(count, until)
                case Score(sequence=sequence, block=block):
                    answer = self.run_score(sequence, block)
                case Await(awaitable=awaitable):
                    awaitable.close()  # nobody is asked here
                    answer = self.remote_texts.pop(0)

    def run_draft(self, count: int, until: Any) -> Block:
        written: list[int] = []
        while len(written) < count and self.draft[0]:
            written.append(self.draft[0].pop(0))
            if until(written):
                break
        if not self.draft[0]:
            self.draft.pop(0)
        assert written
        return Block(len(written), known=written)

    def run_score(self, sequence: TokenSequence, block: Block) -> Acceptance:
        self.read.append(block.tokens)
        wanted = self.target[0] if self.target else []
        accepted = 0
        while (
            accepted < block.length
            and block.tokens[accepted : accepted + 1] == wanted[accepted : accepted + 1]
        ):
            accepted += 1
        following = wanted[accepted] if accepted < len(wanted) else TARGET.eos_token_id
        if self.target:
            self.target[0] = wanted[accepted + 1 :]
            if not self.target[0]:
                self.target.pop(0)
        reasons = ["accepted"] * accepted + ["recovered"]
        reading = Reading([-1.0] * block.length, [-2.0] * block.length)
        return Acceptance(block.tokens, accepted, following, reasons, reading=reading)


def tokens(tokenizer: Any, *texts: str) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in texts]


def both(count: int = 200) -> tuple[TokenSequence, CrossTokenizerTarget]:
    ends = frozenset({TARGET.eos_token_id})
    limits = Limits(count, stop_token_ids=ends)
    main = TokenSequence(tokens(TARGET, PROMPT)[0], limits=limits, decoder=TARGET)
    side = TokenSequence(
        tokens(DRAFT, PROMPT)[0], limits=Limits(400, stop_token_ids=ends), decoder=DRAFT
    )
    return main, CrossTokenizerTarget(side, Codec(DRAFT), Codec(TARGET), TARGET.eos_token_id)


def test_texts_cross_over_and_nothing_is_encoded_again():
    first, refused, second, third = "3 * 4 = 12\n", "So 1\n", "So 12 pens\n", "Answer: 12\n"
    end = DRAFT.eos_token_id
    draft = tokens(DRAFT, first, refused, third)
    draft[-1].append(end)
    stage = Stage([*draft[:2], draft[2][:-1], [end]], tokens(TARGET, second))
    main, crossing = both()
    policy = Scripted((True, False, True, True))
    stage.run(stepwise(main, policy, crossing))
    assert main.answer == [t for part in tokens(TARGET, first, second, third) for t in part] + [
        TARGET.eos_token_id
    ]
    assert crossing.drafted.answer == [
        t for part in tokens(DRAFT, first, second, third) for t in part
    ] + [end]
    assert main.finish_reason == "stop"
    assert main.text() == first + second + third
    # The refused step opens the rewrite, as one block; then the target writes token by token.
    assert stage.read[0] == tokens(TARGET, refused)[0]
    assert all(block == [] for block in stage.read[1:])
    assert [s.decision for s in main.steps] == ["accepted", "rewritten", "accepted", "accepted"]
    assert [s.target_candidates for s in main.steps] == [[], [second], [], []]
    assert main.steps[1].candidates[0].ids == tokens(DRAFT, refused)[0]
    assert main.counters.draft_passes == 0 + sum(s.draft_tokens for s in main.steps)
    assert main.counters.target_passes == len(stage.read)


@pytest.mark.parametrize("accepted", [True, False])
def test_a_step_that_the_target_has_read_is_not_read_again(accepted: bool):
    said = "3 * 4 = 12\n"
    stage = Stage(tokens(DRAFT, said), tokens(TARGET, said))
    main, crossing = both(len(tokens(TARGET, said)[0]))
    policy = Scripted((accepted,), reads=True)
    stage.run(stepwise(main, policy, crossing))
    assert main.answer == tokens(TARGET, said)[0]
    assert stage.read == tokens(TARGET, said)
    (reading,) = policy.readings
    assert len(reading.logprobs) == len(stage.read[0])
    assert main.counters.target_passes == 1
    assert main.steps[0].decision == ("accepted" if accepted else "rewritten")


def test_half_a_character_is_no_step():
    (whole,) = tokens(DRAFT, "é")
    stage = Stage([whole[:1]], tokens(TARGET, "x"))
    main, crossing = both(1)
    policy = Scripted((True,), reads=True, step_tokens=1)
    stage.run(stepwise(main, policy, crossing))
    (record,) = main.steps
    assert (record.reason, record.decision) == (UNTRANSLATABLE, "rewritten")
    assert policy.readings == []
    assert stage.read[0] == []


def test_a_rewritten_step_ends_with_a_whole_character():
    written = tokens(TARGET, "aé\n")[0]
    stage = Stage(tokens(DRAFT, "no", "b\n"), [written[:3]])
    main, crossing = both(5)
    policy = Scripted((False, True), step_tokens=2)
    stage.run(stepwise(main, policy, crossing))
    # Two tokens were allowed; the third completes the character.
    assert main.steps[0].tokens == 3
    assert TARGET.decode(main.answer[:3]) == "aé"
    assert crossing.drafted.answer[: len(tokens(DRAFT, "aé")[0])] == tokens(DRAFT, "aé")[0]


def test_where_the_draft_cannot_read_the_target_writes_on_alone():
    deaf = tongues.unigram()
    said, rest = "é = 3\n", "So 3\nAnswer\n"
    stage = Stage(tokens(deaf, "no\n"), tokens(TARGET, said, rest))
    main, crossing = both()
    crossing.drafted.decoder, crossing.draft = deaf, Codec(deaf)
    stage.run(stepwise(main, Scripted((False,)), crossing))
    assert main.text() == said + rest
    assert main.steps[0].reason == "as told" + UNREADABLE
    assert len(main.steps) == 1
    assert crossing.drafted.answer == []


# A remote target


def remote_text(text: str, ended: bool = False) -> RemoteText:
    return RemoteText(text, ended, 7, 0.5)


def remote_writer(count: int = 200) -> tuple[TokenSequence, RemoteWriter]:
    limits = Limits(count, stop_token_ids=frozenset({DRAFT.eos_token_id}))
    main = TokenSequence(tokens(DRAFT, PROMPT)[0], limits=limits, decoder=DRAFT)
    client: Any = None
    return main, RemoteWriter(client, Codec(DRAFT), PROMPT, DRAFT.eos_token_id)


def test_refused_steps_are_asked_for():
    first, refused, second = "3 * 4 = 12\n", "So 1\n", "So 12 pens\n"
    stage = Stage(
        tokens(DRAFT, first, refused, "x\n"),
        remote_texts=[remote_text(second), remote_text("", True)],
    )
    main, target = remote_writer()
    stage.run(stepwise(main, Scripted((True, False, False)), EndpointTarget(target)))
    assert main.text() == first + second
    assert main.answer == [t for part in tokens(DRAFT, first, second) for t in part] + [
        DRAFT.eos_token_id
    ]
    assert main.finish_reason == "stop"
    assert stage.log.count("Await") == 2
    assert "Score" not in stage.log
    assert [s.target_tokens for s in main.steps] == [0, 7, 7]
    assert [s.target_seconds for s in main.steps] == [0, 0.5, 0.5]
    length = len(tokens(DRAFT, first)[0])
    assert set(main.reasons[length:]) == {WRITTEN}
    assert set(main.origins[length:]) == {"target"}


def test_nothing_but_whole_characters_is_sent():
    (whole,) = tokens(DRAFT, "é")
    stage = Stage([whole[:1]], remote_texts=[remote_text("b\n", True)])
    main, target = remote_writer()
    stage.run(stepwise(main, Scripted((True,), step_tokens=1), EndpointTarget(target)))
    assert main.steps[0].reason == CUT
    assert main.text() == "b\n"


def test_what_the_draft_cannot_say_ends_the_request_with_its_steps():
    deaf = tongues.unigram()
    limits = Limits(100, stop_token_ids=frozenset({deaf.eos_token_id}))
    main = TokenSequence(tokens(deaf, PROMPT)[0], limits=limits, decoder=deaf)
    client: Any = None
    target = RemoteWriter(client, Codec(deaf), PROMPT, deaf.eos_token_id)
    stage = Stage(tokens(deaf, "3 + 4\n", "no\n"), remote_texts=[remote_text("é\n")])
    with pytest.raises(StetError, match="which the draft's tokenizer changes"):
        stage.run(stepwise(main, Scripted((True, False)), EndpointTarget(target)))
    assert main.text() == "3 + 4\n"
    assert len(main.steps) == 1


def test_the_target_alone_is_asked_until_it_ends_or_says_nothing():
    for texts, said, reason in (
        ([remote_text("3 "), remote_text("pens", True)], "3 pens", "stop"),
        ([remote_text("3 "), remote_text("")], "3 ", "length"),
    ):
        main, target = remote_writer()
        stage = Stage(remote_texts=list(texts))
        stage.run(remote_autoregressive(main, target))
        assert (main.text(), main.finish_reason) == (said, reason)
        assert stage.log == ["Await"] * len(texts)


# What is asked of the endpoint, answer by answer


@dataclass
class Answering:
    """Stands in for the client; answers in turn and records what it was asked."""

    answers: list[Completion]
    asked: list[dict[str, Any]] = field(default_factory=list)
    abilities: Abilities = field(default_factory=Abilities)

    async def complete(self, prompt: str, **more: Any) -> Completion:
        self.asked.append({"prompt": prompt, **more})
        return self.answers.pop(0)


def written(
    answers: list[Completion], delimiter: Any = "\n", most: int = 20
) -> tuple[RemoteText, Any]:
    client: Any = Answering(answers)
    target = RemoteWriter(client, Codec(DRAFT), PROMPT)
    stops = () if delimiter == "sentence" else (delimiter,)
    work = target.write("Q", ends_of(delimiter), stops, most, SamplingParams())
    return asyncio.run(work), client


@pytest.mark.parametrize(
    ("answers", "text", "ended"),
    [
        # The server says what it met, or leaves the stop string in.
        ([Completion("3 pens", "stop", "\n", 2)], "3 pens\n", False),
        ([Completion("3 pens", "stop", "", 2)], "3 pens", True),
        ([Completion("3 pens\n", "stop", None, 2)], "3 pens\n", False),
        ([Completion("3 pens\nmore", "length", None, 2)], "3 pens\n", False),
        ([Completion("3 pens", "length", None, 20)], "3 pens", False),
        # It does not say, so one more token tells.
        ([Completion("3", "stop"), Completion("\n", "length")], "3\n", False),
        ([Completion("3", "stop"), Completion("\n\n", "length")], "3\n", False),
        ([Completion("3", "stop"), Completion("", "stop")], "3", True),
        ([Completion("3", "stop"), Completion(" or", "length")], "3\n", False),
        # A delimiter with nothing before it ends no step.
        ([Completion("", "stop", "\n"), Completion("3", "stop", "\n")], "\n3\n", False),
        # A limit has cut a character in two.
        ([Completion("3 \ufffd", "length", None, 20)], "3 ", False),
    ],
)
def test_what_a_server_leaves_out_is_put_back(answers: list[Completion], text: str, ended: bool):
    count = len(answers)
    found, client = written(answers)
    assert (found.text, found.ended) == (text, ended)
    assert len(client.asked) == count
    assert client.asked[0]["prompt"] == "Q"
    assert (client.asked[0]["max_tokens"], client.asked[0]["stop"]) == (20, ("\n",))
    assert client.asked[0]["seed"] is None


def test_a_server_that_writes_nothing_but_delimiters_is_not_asked_for_ever():
    found, client = written([Completion("", "stop", "\n", 0)] * 50, most=5)
    assert (found.text, len(client.asked)) == ("\n" * 5, 5)
    assert [a["max_tokens"] for a in client.asked] == [5, 4, 3, 2, 1]


def test_where_only_we_can_tell_the_end_the_server_is_asked_for_more():
    found, client = written([Completion("It is 3. So", "length", None, 20)], "sentence")
    assert (found.text, found.ended, found.tokens) == ("It is 3.", False, 20)
    assert client.asked[0]["stop"] == ()
