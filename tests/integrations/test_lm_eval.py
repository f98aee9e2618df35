"""A pair in the lm-evaluation-harness agrees with the harness's own transformers model."""

import json
import logging
import math
import sys
from functools import partial

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

import stet
from stet.core.errors import OptionError, StetError
from tiny import llama, near

REASON = "needs the lm-evaluation-harness (400 MB): pip install 'stet-decoding[lm-eval]'"
pytest.importorskip("lm_eval", reason=REASON)
pytestmark = pytest.mark.slow

import lm_eval  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from stet.integrations.lm_eval import StetLM, main  # noqa: E402

VOCAB = 320
LENGTH = 64
TEXT = """Tom has 12 red pens and gives 5 of them away. How many pens are left?
Ann buys 3 boxes. Each box holds 24 green apples. How many apples does she have in all?
The answer is 7. The answer is 72. The pens are red; the apples are not."""


def subwords():
    """Merges over bytes, spaces at the front of words, and a first token of its own."""
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([TEXT], trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template="{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}",
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("pair")
    large = llama(vocab=VOCAB, layers=3)
    found = {}
    for role, model in (("target", large), ("draft", near(large, 0.05))):
        found[role] = str(place / role)
        model.save_pretrained(found[role])
        subwords().save_pretrained(found[role])
    return found


@pytest.fixture(scope="module")
def harness(folders):
    """The harness's own model."""
    return HFLM(folders["target"], device="cpu", batch_size=3, max_length=LENGTH)


@pytest.fixture(scope="module")
def ours(folders):
    return StetLM(**folders, batch_size=3, max_length=LENGTH)


def requests(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


PAIRS = [
    ("How many pens are left?", " 7"),
    ("How many pens are left?", " 72"),
    ("How many pens are left?", " The answer is 7."),
    ("How many pens are left?", " The answer is 72."),
    ("How many pens are left? ", "7"),  # the space moves over
    ("How many pens are left?   ", "7 pens"),
    ("How many pe", "ns are left?"),  # a word in two
    ("", " Tom has 12 red pens"),
    ("", "<s>Tom has"),  # begins with what an empty context is replaced by
    ("<s>Tom has", " 12 red pens"),
    ("Tom", " has 12 näive — pens"),
    (TEXT, " The answer is 7."),  # longer than there is room
    (TEXT, " The answer is 72."),
    (TEXT[40:], TEXT[:90]),
    ("How many pens are left?", " 7"),  # twice
]


def test_log_likelihoods_agree(ours, harness):
    asked = requests("loglikelihood", *PAIRS)
    wanted = harness.loglikelihood(asked, disable_tqdm=True)
    found = ours.loglikelihood(asked, disable_tqdm=True)
    for pair, (logprob, greedy), (right, right_greedy) in zip(PAIRS, found, wanted, strict=True):
        assert logprob == pytest.approx(right, abs=1e-4), pair
        assert greedy == right_greedy, pair
    assert (
        len({round(logprob, 3) for logprob, _ in found}) >= len(PAIRS) - 2
    )  # two of them say the same
    assert ours.pair.engine.runners["target"].rows_in_use == 0


def test_the_models_own_text_is_greedy(ours, harness):
    context = "Tom has 12 red pens"
    tokens = ours.pair.generate(context, "target", max_new_tokens=6, ignore_eos=True).token_ids
    cases = [ours.tok_encode(context), tokens], [ours.tok_encode(context), tokens[:1]]
    cases += ([ours.tok_encode(context), [*tokens[:5], tokens[5] ^ 1]],)
    asked = [(None, *case) for case in cases]
    found = ours._loglikelihood_tokens(asked, disable_tqdm=True)
    assert [greedy for _, greedy in found] == [True, True, False]
    wanted = harness._loglikelihood_tokens(asked, disable_tqdm=True)
    assert [p for p, _ in found] == pytest.approx([p for p, _ in wanted], abs=1e-4)


def test_passes_are_cut_to_fit_memory(ours, harness, monkeypatch):
    monkeypatch.setattr("stet.integrations.loglikelihood._LARGEST", VOCAB * 3 * 4)
    monkeypatch.setattr("stet.integrations.loglikelihood.CHUNK", 5)
    test_log_likelihoods_agree(ours, harness)


def test_a_context_is_read_once(ours):
    runner = ours.pair.engine.runners["target"]
    before = runner.passes
    choices = [(PAIRS[0][0], f" {word}") for word in ("7", "72", "pens", "red pens", "12")]
    ours.loglikelihood(requests("loglikelihood", *choices), disable_tqdm=True)
    different = {tuple(ours._encode_pair(*choice)[1][:-1]) for choice in choices}
    assert runner.passes - before == 1 + len(different) < 1 + len(choices)


def test_whole_texts_agree(ours, harness):
    texts = [("Tom has 12 red pens.",), (TEXT,), (TEXT + TEXT,), ("a",), ("",)]
    asked = requests("loglikelihood_rolling", *texts)
    wanted = harness.loglikelihood_rolling(asked, disable_tqdm=True)
    found = ours.loglikelihood_rolling(asked, disable_tqdm=True)
    assert found == pytest.approx(wanted, abs=1e-3)
    assert len(ours.tok_encode(TEXT + TEXT)) > 2 * LENGTH


def test_texts_that_do_not_fit_are_cut_with_a_warning_or_refused(ours, caplog):
    with caplog.at_level(logging.WARNING):
        ours.loglikelihood(requests("loglikelihood", (TEXT, " 7")), disable_tqdm=True)
        asked = requests("generate_until", (TEXT, {"max_gen_toks": 4}))
        ours.generate_until(asked, disable_tqdm=True)
    said = [r.getMessage() for r in caplog.records if r.name.startswith("stet")]
    assert len(said) == 2
    assert "are left out" in said[0]
    assert "are left out" in said[1]
    with pytest.raises(OptionError, match="continuation of .* exceeds the 64"):
        ours.loglikelihood(requests("loglikelihood", ("Tom", TEXT)), disable_tqdm=True)
    with pytest.raises(OptionError, match="no token of its own"):
        ours.loglikelihood(requests("loglikelihood", ("The answ", "er")), disable_tqdm=True)
    with pytest.raises(OptionError, match="leave no room"):
        ours.generate_until(requests("generate_until", ("Tom", {})), disable_tqdm=True)


SETTINGS = [
    {"until": ["zzz"], "max_gen_toks": 30},
    {"until": ["e", "."], "max_gen_toks": 30},
    {"until": "a", "max_gen_toks": 30, "do_sample": False, "temperature": 0.0},
    {"max_new_tokens": 7},
    {"until": [" "], "max_gen_toks": 30, "repetition_penalty": 1.3, "do_sample": False},
]


@pytest.mark.parametrize("policy", ["exact", "block", "target"])
def test_lossless_policies_write_what_the_harness_writes(folders, harness, policy):
    # At a fixed length: what passes cost in a test may make a rule rest.
    length = {} if policy == "target" else {"draft_length": 3}
    model = StetLM(**folders, policy=policy, batch_size=4, max_length=LENGTH, **length)
    contexts = ["Tom has", "The answer is", "How many apples does she have in all?", TEXT]
    asked = requests("generate_until", *[(c, s) for s in SETTINGS for c in contexts])
    wanted = harness.generate_until(asked, disable_tqdm=True)
    assert model.generate_until(asked, disable_tqdm=True) == wanted
    assert len(set(wanted)) > len(contexts)
    assert (model.counters.accepted_tokens > 0) == (policy != "target")


def test_another_policy_writes_something_else(folders, harness):
    model = StetLM(**folders, policy="draft", max_length=LENGTH)
    asked = requests("generate_until", ("The answer is", SETTINGS[0]))
    assert model.generate_until(asked) != harness.generate_until(asked)


def test_sampling_is_repeatable(folders):
    def sample(seed):
        model = StetLM(pair=pair, policy="block", seed=seed)
        settings = {"do_sample": True, "temperature": 1.2, "top_p": 0.95, "max_gen_toks": 20}
        return model.generate_until(requests("generate_until", *[("Tom has", settings)] * 3))

    pair = stet.load_pair(**folders, max_length=LENGTH)
    first = sample(0)
    assert first == sample(0) != sample(10)
    assert len(set(first)) == 3


def test_what_is_not_known_is_refused(folders, ours):
    for setting in ({"num_beams": 2}, {"top_h": 0.5}, {"max_length": 9}):
        settings = {"max_gen_toks": 4, **setting}
        with pytest.raises(OptionError, match="no generation setting"):
            ours.generate_until(requests("generate_until", ("Tom", settings)), disable_tqdm=True)
    with pytest.raises(OptionError, match="no parameter 'tempo'"):
        StetLM(**folders, tempo=3)
    with pytest.raises(OptionError, match="'target' decodes with one model and has no parameters"):
        StetLM(**folders, policy="target", tempo=3)
    with pytest.raises(OptionError, match="no policy 'exactly'"):
        StetLM(**folders, policy="exactly")
    with pytest.raises(OptionError, match="batch_size is 'many'"):
        StetLM(**folders, batch_size="many")


def test_a_failing_request_stops_the_evaluation(ours, monkeypatch):
    class Broken(stet.Exact):
        name = "broken"

        def verify(self, blocks):
            raise RuntimeError("it was me")

    monkeypatch.setattr(ours, "_policy", Broken())
    with pytest.raises(StetError, match="it was me"):
        ours.generate_until(requests("generate_until", ("Tom", {"max_gen_toks": 9})))


def test_chats_are_rendered_by_the_tokenizer(ours, harness):
    chat = [{"role": "user", "content": "How many?"}]
    assert ours.apply_chat_template(chat) == harness.apply_chat_template(chat)
    assert ours.chat_template(True) == harness.chat_template(True)
    assert ours.tokenizer_name == harness.tokenizer_name


# The whole harness, on tasks in a folder

QUESTIONS = [
    {"question": "How many pens are left?", "choices": ["7", "72", "12 red"], "label": 0},
    {"question": "How many apples does she have?", "choices": ["24", "72", "3"], "label": 1},
    {"question": "Tom has 12 red", "choices": ["pens", "apples", "boxes"], "label": 0},
    {"question": "The answer is", "choices": ["left", "7", "green"], "label": 1},
]
TASKS = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "tiny_answer": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[label]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
    "tiny_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of tasks over a local file."""
    place = tmp_path_factory.mktemp("tasks")
    data = place / "questions.jsonl"
    data.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    for name, task in TASKS.items():
        dataset = {"data_files": {"test": str(data)}, "cache_dir": str(place / "cache")}
        common = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": dataset,
            "test_split": "test",
        }
        (place / f"{name}.yaml").write_text(json.dumps({**common, **task}))  # JSON is YAML
    return place


def test_a_whole_evaluation_agrees(tasks, folders, harness):
    def evaluate(model, **settings):
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        return lm_eval.simple_evaluate(
            model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, **settings
        )

    arguments = f"target={folders['target']},draft={folders['draft']},policy=exact,max_length=64"
    found = evaluate("stet", model_args=arguments, batch_size=2)
    wanted = evaluate(harness)
    for name in TASKS:
        right, ours = wanted["results"][name], found["results"][name]
        assert right.keys() == ours.keys()
        for metric, value in right.items():
            if isinstance(value, float) and not math.isnan(value):
                assert ours[metric] == pytest.approx(value, rel=1e-4), (name, metric)
        texts = [[s["resps"] for s in results["samples"][name]] for results in (wanted, found)]
        if name == "tiny_answer":
            assert texts[0] == texts[1]
    assert found["config"]["stet"]["policy"] == {"name": "exact"}
    assert found["config"]["stet"]["tokens_per_pass"] > 1


def test_the_command_line_knows_the_model(tasks, folders, tmp_path, monkeypatch, capsys):
    arguments = ["--model", "stet", "--tasks", "tiny_choice,tiny_answer"]
    arguments += ["--model_args", ",".join(f"{k}={v}" for k, v in folders.items())]
    arguments += ["--include_path", str(tasks), "--output_path", str(tmp_path), "--batch_size", "4"]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
    only_ours = partial(TaskManager, include_defaults=False)  # it knows 14,000 tasks
    monkeypatch.setattr("lm_eval.tasks.TaskManager", only_ours)
    main()
    assert "tiny_choice" in capsys.readouterr().out
    (file,) = tmp_path.rglob("results_*.json")
    results = json.loads(file.read_text())
    assert results["results"].keys() == {"tiny_choice", "tiny_answer"}
    assert results["config"]["stet"]["emitted_tokens"] > 0
