"""The recipe of the rewards: labels that hold, training that goes on, files that load."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

import stet
from recipe_modules import recipe_modules
from stet import bundled
from stet.rewards import ModelReward, RewardHead, load_reward

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("reward_data", "reward_model", "reward")
HELPERS = ("checkpoint", "config", "optim", "muon", "parallel")


@pytest.fixture(scope="module")
def recipes():
    with recipe_modules(*NAMES, helpers=HELPERS) as found:
        yield found


@pytest.fixture(scope="module")
def pair():
    return stet.load_pair(max_batch=24, max_length=512, compile=False)


@pytest.fixture(scope="module")
def labelled(recipes, pair, tmp_path_factory):
    """A few problems of the validation split, labelled."""
    path = tmp_path_factory.mktemp("labelled") / "policy_train.jsonl"
    recipes.reward_data.collect(pair, path, "validation", 24, batch=24)
    return path


@pytest.fixture(scope="module")
def examples(recipes, labelled):
    return list(recipes.reward_data.read(labelled))


def test_a_head_reads_the_states_of_its_own_pairs_draft(recipes):
    folder = ROOT / "benchmarks/pairs/control"
    for seed in (None, 0, 1):
        found = recipes.reward.subject_of(
            argparse.Namespace(control=seed, export=None, pairs=folder)
        )
        target = bundled.TARGET if seed is None else folder / f"target-{seed}"
        again = stet.load_pair(target, found.draft, dtype="float32", compile=False)
        assert again.fingerprint == found.pair.fingerprint
        assert found.export.parent in (bundled.REWARD.parents[1], folder)


def answer_of(pair, prompt: str) -> int | None:
    rest = pair.generate(prompt, "exact", max_new_tokens=256).text
    return bundled.parse_answer(rest)


def test_problems_come_from_the_split_and_families_are_mixed(recipes):
    numbered = recipes.reward_data.numbered("policy_train", 40)
    assert [number for number, _ in numbered] == list(range(40))
    assert sum(p.family == "stories" for _, p in numbered) == 30
    assert sum(p.family == "stories" for _, p in numbered[:20]) == 15
    for _, problem in numbered:
        assert bundled.splits.split_of(problem.key) == "policy_train"


def test_labels_say_whether_the_target_still_gets_it_right(recipes, pair, examples):
    truth = dict(recipes.reward_data.numbered("validation", 24))
    checked = 0
    for example in examples:
        for steps in example.solutions:
            labels = [step.good for step in steps]
            # Once bad, always bad.
            assert labels == sorted(labels, reverse=True)
            assert all(step.good for step in steps if not step.draft)
            if False not in labels:
                text = "".join(step.text for step in steps)
                assert bundled.parse_answer(text) == truth[example.problem].answer
                continue
            first = labels.index(False)
            before = example.prompt + "".join(step.text for step in steps[:first])
            assert answer_of(pair, before) == truth[example.problem].answer
            after = before + steps[first].text
            if first + 1 < len(steps):
                assert answer_of(pair, after) != truth[example.problem].answer
            checked += 1
    assert checked >= 5


def test_after_a_bad_step_the_target_writes_it_and_the_draft_goes_on(examples):
    rewritten = [e for e in examples if len(e.solutions) > 1]
    assert rewritten
    for example in rewritten:
        first, second = example.solutions[:2]
        bad = [step.good for step in first].index(False)
        assert second[:bad] == first[:bad]
        assert not second[bad].draft
        assert second[bad].good


def test_labelling_goes_on_where_it_stopped(recipes, pair, labelled, examples, monkeypatch):
    made = []
    monkeypatch.setattr(
        recipes.reward_data.Labeller, "label", lambda self, part: made.extend(part) or []
    )
    assert recipes.reward_data.collect(pair, labelled, "validation", 26) == len(examples)
    assert [number for number, _ in made] == [24, 25]
    assert labelled.with_suffix(".progress").read_text() == "26"


def test_a_step_is_labelled_at_its_last_token_and_only_up_to_the_first_bad_one(
    recipes, pair, examples
):
    model = recipes.reward_model
    texts = [text for text, _ in model.texts_of(examples, pair.tokenizer)]
    batch = model.batch_of(texts, range(len(texts)))
    for row, text in enumerate(texts):
        places = (batch.labels[row] != model.IGNORED).nonzero()[:, 0].tolist()
        assert places == text.ends[: text.blamed]
        assert batch.labels[row, places].tolist() == [float(g) for g in text.good[: text.blamed]]
        assert text.good[: text.blamed].count(False) <= 1
        whole = pair.tokenizer.decode(text.ids)
        assert pair.tokenizer(whole)["input_ids"] == text.ids
        # What the reward reads is the text up to there, and its own last token.
        end = pair.tokenizer.decode(text.ids[: text.ends[0] + 1])
        assert pair.tokenizer(end)["input_ids"] == text.ids[: text.ends[0] + 1]


def test_a_state_of_the_head_is_of_the_position_before_its_token(recipes, pair, examples):
    """As `Candidate.hidden` will hold them."""
    model = recipes.reward_model
    texts = model.texts_of(examples, pair.tokenizer)
    steps = model.steps_of(texts)
    place, step = steps.where[0]
    text, prompt = texts[place]
    start = text.starts(prompt)[step]
    tokens = torch.tensor([text.ids[: text.ends[step]]])
    draft = AutoModelForCausalLM.from_pretrained(bundled.DRAFT, dtype=torch.float32)
    with torch.inference_mode():
        hidden = draft.model(input_ids=tokens).last_hidden_state
    expected = hidden[0, start - 1 :]
    assert steps.states[0].shape == expected.shape
    assert torch.allclose(steps.states[0].float(), expected, atol=0.05)


def train(recipes, monkeypatch, cache, *more: str) -> None:
    words = ["reward.py", "--cache", cache, "--export", cache / "out", "--problems", 24]
    monkeypatch.setattr(sys, "argv", [str(w) for w in (*words, "--validation", 24, *more)])
    recipes.reward.main()


def test_the_command_trains_goes_on_and_exports_what_users_load(
    recipes, labelled, tmp_path, monkeypatch
):
    for split in ("policy_train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(labelled.read_text())
        (tmp_path / f"{split}.progress").write_text("24")
    names = ("head", recipes.reward.EXPORTED)
    train(recipes, monkeypatch, tmp_path, *names, "--tokens", "5000", "--head-tokens", "2000")
    head = RewardHead.load(tmp_path / "out" / "reward_head")
    model = ModelReward.load(tmp_path / "out" / "reward", device="cpu")
    assert head.pair == load_reward("head").pair
    assert 0 < model.read(["Problem: 1\nSolution:\n 1 + 1 = 2\n"])[0] < 1
    state = tmp_path / names[1] / "last" / "progress.json"
    before = json.loads(state.read_text())
    assert before["tokens"] >= 5000
    train(recipes, monkeypatch, tmp_path, names[1], "--tokens", "9000")
    after = json.loads(state.read_text())
    assert after["step"] > before["step"]
    assert 9000 <= after["tokens"] < 14000


def test_a_run_in_two_parts_sees_the_batches_of_one(recipes, pair, examples):
    model = recipes.reward_model
    texts = [text for text, _ in model.texts_of(examples, pair.tokenizer)]
    whole, rest = (model.batches(texts, 1000, 3, skip) for skip in (0, 7))
    for _ in range(7):
        next(whole)
    for _ in range(5):
        assert next(whole).places == next(rest).places


# What ships


def test_the_shipped_reward_model_is_plain_and_small():
    config = AutoConfig.from_pretrained(bundled.REWARD)
    assert config.architectures == ["LlamaForTokenClassification"]
    assert config.num_labels == 1
    with safe_open(bundled.REWARD / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(k).get_dtype() for k in weights.keys()} == {"BF16"}  # noqa: SIM118
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (bundled.REWARD / name).read_bytes() == (bundled.DRAFT / name).read_bytes()
    folders = (bundled.REWARD, bundled.REWARD_HEAD)
    assert sum(f.stat().st_size for d in folders for f in d.rglob("*")) < 4_000_000


def test_the_shipped_rewards_are_for_the_bundled_pair(pair):
    assert load_reward("head").pair == load_reward("bundled").pair == pair.fingerprint


def test_an_empty_step_has_no_states(recipes, pair, examples):
    """As a draft writes one that ends its answer with a line of nothing."""
    model, data = recipes.reward_model, recipes.reward_data
    solution = [data.Step(step.text, True, True) for step in examples[0].solutions[0]]
    longer = replace(examples[0], solutions=[[*solution, data.Step("", True, True)]])
    steps = model.steps_of(model.texts_of([longer], pair.tokenizer))
    assert len(steps.states) == len(solution)
    assert all(len(states) for states in steps.states)


@pytest.mark.parametrize("name", ["head", "bundled"])
def test_the_shipped_rewards_tell_good_steps_from_bad(recipes, pair, examples, name):
    model = recipes.reward_model
    texts = model.texts_of(examples, pair.tokenizer)
    steps = model.steps_of(texts)
    if name == "head":
        scores = model.head_scores(load_reward(name).net, steps)
    else:
        shown = [
            pair.tokenizer.decode(texts[place][0].ids[: texts[place][0].ends[step] + 1])
            for place, step in steps.where
        ]
        rewards = [r for text in shown for r in load_reward(name).read([text])]
        logits = torch.tensor(rewards).logit(1e-6).tolist()
        scores = dict(zip(steps.where, logits, strict=True))
    found = model.quality(scores, texts)
    assert found["bad"] >= 5
    assert found["auroc"] > 0.65
