"""Examples that a draft is tuned on: the target's own texts, or a user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stet.calibration.rollouts import prompt_of, with_room
from stet.core.errors import OptionError, StetError
from stet.core.folders import claim_folder
from stet.core.reading import read_records
from stet.core.writing import append_lines, drop_torn_line, json_line
from stet.requests.chat import Chat
from stet.requests.options import PINNED

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair

Report = Callable[[str, int, int], None]
"""A progress callback: it is called with a title, the number done, and the total."""

ANSWERS = "answers.jsonl"
SMALLEST = 16
"""Examples below which there is nothing to learn from."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the text that is to follow it, in tokens.

    Attributes:
        id: unique among the examples.
        prompt: tokens of the prompt, chat template included.
        answer: tokens of the answer, with the token that ends it.
    """

    id: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def write_examples(
    pair: Pair, task: LoadedTask, folder: Path, batch: int, report: Report
) -> list[Example]:
    """Have the target answer the questions of a task, greedily and speculating losslessly.

    Answers that reach the limit of tokens are kept as far as they go.

    Args:
        pair: the models.
        task: the questions; right answers are not used.
        folder: of the answers; those that it holds are not generated again.
        batch: questions at a time.
        report: called with the progress.

    Raises:
        StetError: the target could not answer, or the folder holds answers of another pair, or to
            another task.
    """
    task = with_room(pair, task.suited(pair))
    about = {
        "pair": pair.fingerprint,
        "task": task.name,
        "chat": None if task.chat is None else asdict(task.chat),
        "max_new_tokens": task.max_new_tokens,
        "stop": list(task.stop),
    }
    claim_folder(folder, about, "set of answers")
    path = folder / ANSWERS
    found = _read(path)
    waiting = [question for question in task.questions if question.id not in found]
    for start in range(0, len(waiting), batch):
        portion = waiting[start : start + batch]
        prompts = [prompt_of(pair, task, question) for question in portion]
        results = pair.generate(
            prompts, "exact", max_new_tokens=task.max_new_tokens, stop=list(task.stop), **PINNED
        )
        lines: list[str] = []
        for question, prompt, result in zip(portion, prompts, results, strict=True):
            if result.error is not None:
                raise StetError(f"The target could not answer {question.id}: {result.error}")
            answer = tuple(token.id for token in result.tokens)
            found[question.id] = Example(question.id, prompt, answer)
            lines.append(json_line({"id": question.id, "prompt": [*prompt], "answer": [*answer]}))
        append_lines(path, lines)
        report("asking the target", len(found), len(task.questions))
    return [found[question.id] for question in task.questions if found[question.id].answer]


def read_examples(pair: Pair, path: Path, chat: Chat | None) -> list[Example]:
    """Read a user's examples from a JSONL file.

    A record has `prompt` and `answer`, both texts, or `messages`, a chat that ends with the
    assistant's message.

    Args:
        pair: renders prompts and cuts texts into tokens.
        path: the file.
        chat: how a `prompt` becomes a chat; None: it is read as it is.

    Raises:
        StetError: a record has neither form, or is longer than the pair's context.
    """
    from pydantic import TypeAdapter

    examples: list[Example] = []
    records = read_records(path, TypeAdapter(dict[str, Any]), "an example")
    for number, record in enumerate(records, 1):
        where = f"Example {number} of {path}"
        prompt, text = _parts(pair, record, chat, where)
        ids = list(pair.tokenizer(text, add_special_tokens=False)["input_ids"])
        answer = tuple(ids) if ids and ids[-1] in pair.end_tokens else (*ids, *_end_of(pair))
        if len(prompt) + len(answer) > pair.max_length:
            raise OptionError(
                f"{where} has {len(prompt) + len(answer)} tokens, and the pair has room for "
                f"{pair.max_length}; leave it out, or give a larger --max-length."
            )
        examples.append(Example(str(record.get("id", number)), prompt, answer))
    return examples


def _end_of(pair: Pair) -> list[int]:
    """The token that ends an answer: of several ends the tokenizer's own, which chats end with."""
    own = pair.tokenizer.eos_token_id
    return [own] if own in pair.end_tokens else sorted(pair.end_tokens)[:1]


def _parts(
    pair: Pair, record: dict[str, Any], chat: Chat | None, where: str
) -> tuple[tuple[int, ...], str]:
    """Tokens of the prompt, and the text of the answer."""
    messages = record.get("messages")
    if isinstance(messages, list) and len(messages) > 1:
        last = messages[-1]
        if isinstance(last, dict) and last.get("role") == "assistant":
            arguments = {} if chat is None else chat.arguments
            return tuple(pair.render(messages[:-1], **arguments)), str(last.get("content", ""))
    prompt, answer = record.get("prompt"), record.get("answer")
    if not (isinstance(prompt, str) and isinstance(answer, str) and answer):
        raise OptionError(
            f'{where} has neither "prompt" and "answer" nor "messages" that end with the '
            "assistant's."
        )
    if chat is not None:
        return tuple(chat.prompt(pair, prompt)), answer
    return tuple(pair.tokenizer(prompt)["input_ids"]), answer


def divide(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Divide a user's examples into those to learn and those to validate on: the last ones.

    At least `SMALLEST` are for validation.
    """
    held = max(SMALLEST, round(share * len(examples)))
    return [*examples[:-held]], [*examples[-held:]]


@dataclass(frozen=True, slots=True)
class _Written:
    id: str
    prompt: list[int]
    answer: list[int]


def _read(path: Path) -> dict[str, Example]:
    """Answers by question; an incomplete last line, as after a crash, is removed."""
    from pydantic import TypeAdapter

    if not path.exists():
        return {}
    lines: list[_Written] = list(read_records(path, TypeAdapter(_Written), "a target's answer"))
    drop_torn_line(path)
    return {line.id: Example(line.id, tuple(line.prompt), tuple(line.answer)) for line in lines}
