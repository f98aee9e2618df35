"""Published instruct models, where they are on this machine: asked as they want to be asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from real import real_model
from stet.cli import app
from stet.evaluation.tasks import load_task
from stet.load import load_pair

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France?"
CHAT = [{"role": "user", "content": QUESTION}]
NAMES = ["smol-135m", "coder-0.5b"]


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest) -> Any:
    return load_pair(real_model(request.param), "lookup", max_length=512, compile=False)


def test_a_question_is_answered_from_python(pair: Any):
    found = pair.generate(CHAT, max_new_tokens=24)
    assert "Paris" in found.text
    assert found.token_ids == pair.generate(pair.render(CHAT), max_new_tokens=24).token_ids
    rendered = pair.render(CHAT)
    wanted = pair.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert list(rendered) == list(wanted)


def test_a_system_prompt_is_heard(pair: Any):
    system = {"role": "system", "content": "You are a pirate named Bill."}
    text = pair.tokenizer.decode(pair.render([system, *CHAT]))
    assert text.count("You are a pirate named Bill.") == 1
    assert "helpful" not in text


def test_an_end_of_turn_as_a_stop_string_stops(pair: Any):
    free = pair.generate(CHAT, max_new_tokens=60, ignore_eos=True)
    end = pair.tokenizer.convert_tokens_to_ids("<|im_end|>")
    at = free.token_ids.index(end)
    assert at < 50
    found = pair.generate(CHAT, max_new_tokens=60, ignore_eos=True, stop=["<|im_end|>"])
    assert found.finish_reason == "stop"
    assert found.token_ids == free.token_ids[: at + 1]
    after = pair.tokenizer.decode(free.token_ids[at : at + 2])
    chunks = list(pair.stream(CHAT, max_new_tokens=60, ignore_eos=True, stop=[after]))
    assert "".join(chunk.text for chunk in chunks) == found.text
    assert chunks[-1].result.token_ids == free.token_ids[: at + 2]


def test_tasks_are_put_into_the_template(pair: Any):
    task = load_task("stories", count=1).suited(pair)
    assert task.chat is not None
    text = pair.tokenizer.decode(task.chat.prompt(pair, task.questions[0].prompt))
    assert text.count("<|im_start|>") == 3  # the template's system prompt, the question, the answer
    assert text.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("name", NAMES)
def test_the_command_answers_a_question(name: str):
    words = ["generate", "-t", real_model(name), "-d", "lookup", QUESTION, "-n", 24, "--json"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    assert "Paris" in json.loads(result.stdout)["text"]
    assert f"the chat template of {name}" in result.stderr
