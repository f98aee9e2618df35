"""The commands with real models, tiny and random."""

import json

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import stet
from families import VOCAB, build
from stet.core import trace
from stet.core.draft_length import FixedLength

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ."


@pytest.fixture(scope="module")
def models_on_disk(tmp_path_factory):
    """Folders of a target and of a draft that agrees with it often."""
    folder = tmp_path_factory.mktemp("models")
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {c: i for i, c in enumerate(CHARACTERS, len(vocabulary))}
    assert len(vocabulary) == VOCAB
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}.",
    )
    target = build("llama")
    draft = build("llama")
    with torch.no_grad():
        for weight in draft.parameters():
            weight += 0.02 * torch.randn_like(weight)
    for name, model in (("target", target), ("draft", draft)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return "--target", folder / "target", "--draft", folder / "draft", "--max-length", 200


def answers(result):
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_streamed_and_batched_text_is_the_targets(run, models_on_disk, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("hello\nWhat is it\nabc\n")
    options = ("--max-new-tokens", 40, "--draft-length", 4)
    exact = answers(run("generate", "-f", file, "--json", *options, *models_on_disk))
    alone = answers(
        run("generate", "-f", file, "--json", "-p", "target", *options, *models_on_disk)
    )
    assert [a["text"] for a in exact] == [a["text"] for a in alone]
    assert sum(a["counters"]["accepted_tokens"] for a in exact) > 0
    streamed = run("generate", "hello", "-q", *options, *models_on_disk)
    assert streamed.stdout == exact[0]["text"] + "\n"


def test_origins_cover_the_text(run, models_on_disk):
    plain = run("generate", "hello", "-q", "-n", 30, *models_on_disk).stdout
    marked = run("generate", "hello", "-q", "-n", 30, "--show-origin", *models_on_disk).stdout
    assert marked.replace("[[", "").replace("]]", "") == plain
    assert "[[" in marked


def test_the_trace_follows_the_published_schema(run, models_on_disk, tmp_path):
    file = tmp_path / "trace.jsonl"
    run("generate", "hello", "-n", 20, "--trace", file, "--logprobs", 2, *models_on_disk)
    (line,) = file.read_text().splitlines()
    jsonschema.validate(json.loads(line), trace.json_schema())
    (read,) = trace.read(file)
    assert len(read.tokens) == read.counters.emitted_tokens


def test_prompt_lookup_needs_no_draft(run, models_on_disk):
    target = models_on_disk[:2]
    result = run("generate", "abcabcabc", "-n", 10, "-d", "lookup", "--json", *target)
    (answer,) = answers(result)
    assert answer["counters"]["emitted_tokens"] == 10


def test_doctor(run, models_on_disk):
    result = run("doctor", "--limit", 2, "-n", 24, "--json", *models_on_disk)
    assert result.exit_code in (0, 1), result.stderr
    record = json.loads(result.stdout)
    assert [model["role"] for model in record["models"]] == ["target", "draft"]
    assert record["same_text_share"] == 1
    assert record["verdict"] in ("use", "marginal", "avoid")
    assert record["memory"]["total"] > 0
    # One for the prompt, one more that a pair always has, and one to measure costs in.
    assert record["memory"]["max_rows"] == 3


def test_doctor_with_prompt_lookup(run, models_on_disk):
    result = run("doctor", "--limit", 2, "-n", 24, *models_on_disk[:2], "-d", "lookup")
    assert result.exit_code in (0, 1), result.stderr
    assert "pair" in result.stdout


def test_demo(run, models_on_disk, monkeypatch):
    _, target, _, draft, *_ = models_on_disk
    pair = stet.load_pair(target, draft, max_length=640)
    # As long as it is chosen, a draft as dear as this tiny one's would soon be left out.
    monkeypatch.setattr(pair._preparer, "_auto_length", lambda *_: FixedLength(4))
    monkeypatch.setitem(stet.__dict__, "load_pair", lambda *_, **__: pair)
    # What was calibrated for the bundled pair is refused for this one.
    monkeypatch.setattr("stet.cli.demo.POLICIES", ("target", "draft", "exact", "specguard"))
    result = run("demo", "--problems", 2, "--json")
    assert result.exit_code == 0, result.stderr
    rows = {row["policy"]: row for row in json.loads(result.stdout)}
    assert rows["exact"]["same_text_share"] == 1
    assert rows["exact"]["counters"]["tokens_per_pass"] > 1
    assert rows["target"]["counters"]["tokens_per_pass"] == 1
    assert rows["draft"]["counters"]["target_passes"] == 0


def test_missing_models_are_one_sentence(run, tmp_path):
    result = run("generate", "hello", "-t", tmp_path / "no", "-d", tmp_path / "none")
    assert result.exit_code == 2
    assert result.stderr.count("Error:") == 1
    assert "Traceback" not in result.stderr


def test_one_prompt_that_is_too_long_fails_alone_and_is_named(run, models_on_disk, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("hello\n" + 300 * "a" + "\nWhat is it\n")
    result = run("generate", "-f", file, "--json", "--no-chat", *models_on_disk)
    assert result.exit_code == 1
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [bool(a["text"]) for a in found] == [True, False, True]
    assert "Prompt 2 of 3" in result.stderr
    assert "shorten it to 199" in result.stderr.replace("\n", " ")
    assert "Prompt 2: Prompt" not in result.stderr
    assert found[1]["error"].startswith("Prompt 2 of 3")


def test_a_long_prompt_gets_the_answer_that_fits(run, models_on_disk):
    result = run("generate", 190 * "a", "--json", "--no-chat", *models_on_disk)
    (found,) = answers(result)
    assert 1 <= found["counters"]["emitted_tokens"] <= 10
    refused = run("generate", 190 * "a", "-n", 11, "--no-chat", *models_on_disk)
    assert refused.exit_code == 1
    assert "lower max_new_tokens to 10" in refused.stderr.replace("\n", " ")


def test_a_sampled_file_is_repeated_with_the_seed_that_was_told(run, models_on_disk, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("hello\nWhat is it\n")
    words = ("-f", file, "--json", "--temperature", 1, "-n", 20, *models_on_disk)
    first = run("generate", *words)
    told = first.stderr.rpartition("--seed ")[2].split()[0]
    again = answers(run("generate", *words, "--seed", told))
    assert [a["text"] for a in again] == [a["text"] for a in answers(first)]
    other = answers(run("generate", *words))
    assert [a["text"] for a in other] != [a["text"] for a in again]
