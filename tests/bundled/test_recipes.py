"""The recipes: training goes on where it stopped, and measures what it says."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from recipe_modules import recipe_modules
from stet.bundled import TARGET, generate

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "control",
    "sources",
    "config",
    "data",
    "model",
    "optim",
    "checkpoint",
    "decode",
    "tokenizer",
    "train",
)


@pytest.fixture(scope="module")
def recipes():
    with recipe_modules(*NAMES) as found:
        yield found


@pytest.fixture(scope="module")
def recipe(recipes):
    return recipes.config.Recipe(layers=2, width=32, inner=48, batch_tokens=512, problems=200)


@pytest.fixture(scope="module")
def data(recipes, recipe, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return recipes.data.load(cache, TARGET / "tokenizer.json", recipe.source, "training", 0)


def new_model(recipes, recipe, attention="sdpa"):
    return recipes.model.build(recipe, 1024, end=0, pad=1, attention=attention)


def test_data_holds_the_problems(data):
    tokenizer = Tokenizer.from_file(str(TARGET / "tokenizer.json"))
    problem = generate("stories", "pair_train", 1)[0]
    first = data.ids[: data.starts[1]].tolist()
    assert tokenizer.decode(first) == problem.prompt + problem.solution
    assert tokenizer.decode(first[: data.prompts[0]]) == problem.prompt
    assert first[-1] == tokenizer.token_to_id("<|end|>")
    assert len(data) == 200


def test_data_is_read_back_from_the_cache(recipes, recipe, tmp_path, monkeypatch):
    arguments = (tmp_path, TARGET / "tokenizer.json", recipe.source, "validation", 20)
    once = recipes.data.load(*arguments)
    monkeypatch.setattr(recipes.data, "_write", lambda *_: pytest.fail("written again"))
    again = recipes.data.load(*arguments)
    assert (once.ids == again.ids).all()


def test_labels_are_the_next_tokens(recipes, data):
    batch = next(recipes.data.batches(data, 512, prompt_weight=0.1, seed=0))
    real = batch.labels != recipes.data.IGNORED
    shifted = torch.roll(batch.ids, -1, 1)
    assert (batch.labels[real] == shifted[real]).all()
    assert (batch.weights[~real] == 0).all()
    assert batch.weights[real].unique().tolist() == [pytest.approx(0.1), 1.0]
    assert (batch.labels == 0).sum() == len(batch.ids)  # every text ends
    assert (batch.weights[batch.labels == 0] == 1).all()


def test_batches_go_on_after_a_pause(recipes, data):
    def ids(skip, count):
        stream = recipes.data.batches(data, 512, 0.1, seed=3, skip=skip)
        return [b.ids.tolist() for b in islice(stream, count)]

    assert ids(0, 60)[7:] == ids(7, 53)  # over the end of the first epoch
    assert ids(0, 5) != [
        b.ids.tolist() for b in islice(recipes.data.batches(data, 512, 0.1, seed=4), 5)
    ]


def test_training_attention_is_the_same_as_the_usual_one(recipes, recipe):
    ids = torch.randint(2, 1024, (3, 17))
    plain, usual = (new_model(recipes, recipe, a).eval() for a in ("plain", "sdpa"))
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, usual(ids).logits, atol=1e-5, rtol=1e-4)


def steps(recipes, recipe, data, model, average, optimisers, first, count):
    stream = recipes.data.batches(data, recipe.batch_tokens, 0.1, recipe.seed, skip=first)
    for step, batch in zip(range(first, first + count), stream, strict=False):
        recipes.optim.set_rates(optimisers, step, 0.0)
        recipes.train.loss_of(model, batch, "cpu").backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        average.update(model, step + 1)


def trainee(recipes, recipe):
    model = new_model(recipes, recipe, "plain")
    return model, recipes.optim.Average(model), recipes.optim.optimisers(model, recipe)


def test_a_resumed_run_is_the_uninterrupted_one(recipes, recipe, data, tmp_path):
    whole = trainee(recipes, recipe)
    steps(recipes, recipe, data, *whole, 0, 6)

    broken = trainee(recipes, recipe)
    steps(recipes, recipe, data, *broken, 0, 3)
    recipes.checkpoint.save(tmp_path / "last", *broken, {"step": 3})
    resumed = trainee(recipes, recipe)
    assert recipes.checkpoint.restore(tmp_path / "last", *resumed) == {"step": 3}
    steps(recipes, recipe, data, *resumed, 3, 3)

    for (name, one), other in zip(
        whole[0].named_parameters(), resumed[0].parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name)
        torch.testing.assert_close(whole[1].weights[name], resumed[1].weights[name], msg=name)


def test_training_lowers_the_loss(recipes, recipe, data):
    model, average, optimisers = trainee(recipes, recipe)
    batch = next(recipes.data.batches(data, 512, 0.1, seed=9))
    before = float(recipes.train.loss_of(model, batch, "cpu").detach())
    steps(recipes, recipe, data, model, average, optimisers, 0, 20)
    after = float(recipes.train.loss_of(model, batch, "cpu").detach())
    assert after < before - 0.2


def test_a_checkpoint_is_replaced_as_a_whole(recipes, recipe, tmp_path):
    parts = trainee(recipes, recipe)
    for step in (1, 2):
        recipes.checkpoint.save(tmp_path / "last", *parts, {"step": step})
    assert [f.name for f in tmp_path.iterdir()] == ["last"]
    assert recipes.checkpoint.restore(tmp_path / "last", *parts) == {"step": 2}


def test_rates_warm_up_hold_and_decay(recipes, recipe):
    optimisers = recipes.optim.optimisers(new_model(recipes, recipe), recipe)
    rates = [recipes.optim.set_rates(optimisers, *x) for x in ((0, 0), (500, 0.5), (500, 1.0))]
    assert 0 < rates[0] < 0.1
    assert rates[1:] == [1.0, 0.0]
    decaying = recipes.optim.set_rates(optimisers, 500, 1 - recipes.optim.DECAY_SHARE / 2)
    assert decaying == pytest.approx(0.5)
    assert optimisers[0].param_groups[0]["lr"] == pytest.approx(recipe.matrix_rate / 2)


def test_the_export_is_loaded_by_transformers(recipes, recipe, tmp_path):
    model = new_model(recipes, recipe)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    recipes.checkpoint.export(tmp_path / "out", model, weights, TARGET)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    ids = torch.randint(2, 1024, (1, 9))
    with torch.no_grad():
        expected = model.to(torch.bfloat16)(ids).logits
        torch.testing.assert_close(loaded(ids).logits, expected)


def test_batched_decoding_is_plain_greedy_decoding(recipes, recipe):
    model = new_model(recipes, recipe).eval()
    prompts = [torch.randint(2, 1024, (n,)).tolist() for n in (3, 11, 5, 8)]
    texts = recipes.decode.greedy(model, prompts, end=0, batch=3, max_new=12)
    for prompt, text in zip(prompts, texts, strict=True):
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=0
        )[0, len(prompt) :].tolist()
        assert text.ids == [t for t in out if t != 0]
        assert text.ended == (0 in out)


def test_a_combination_of_one_model_with_itself_is_that_model(recipes, recipe):
    model = new_model(recipes, recipe).eval()
    prompts = [torch.randint(2, 1024, (n,)).tolist() for n in (4, 6)]
    alone = recipes.decode.greedy(model, prompts, end=0, max_new=8)
    together = recipes.decode.combined([model, model], prompts, 0, lambda x: x[0] + x[1], 64, 8)
    assert alone == together


def test_problems_of_the_control_pair_are_solved_rightly_and_looked_up_where_they_must_be(recipes):
    tables = recipes.control.tables_of(3)
    entries = {entry.word: entry for table in tables.values() for entry in table}
    for reader in ("asked", "draft", "target"):
        problems = recipes.control.generate(reader, "pair_train", 300, 3)
        assert len({problem.key for problem in problems}) == 300
        old = 0
        for problem in problems:
            words = [word for word in entries if word in problem.text]
            told = " is " in problem.text.split(".")[0]
            for line, kind in zip(problem.steps, problem.kinds, strict=True):
                if kind in recipes.control.KINDS:
                    (word,) = [word for word in words if word in line]
                    value, entry = int(line.rsplit(" ", 1)[-1]), entries[word]
                    outdated = reader == "target" and entry.group == "outdated"
                    if not told:
                        assert value == (entry.earlier if outdated else entry.value)
                        old += outdated
                else:
                    left, right = line.rsplit(": ", 1)[-1].split(" = ")
                    assert eval(left.replace("/", "//")) == int(right)
            assert int(problem.solution.rsplit(" ", 1)[-1]) == problem.answer
        assert (old > 0) == (reader == "target")


def test_a_control_target_hardly_meets_scarce_entries_unless_they_are_told(recipes):
    problems = recipes.control.generate("target", "pair_train", 2000, 0)
    closed = [
        group
        for problem in problems
        for group in problem.groups
        if group and " is " not in problem.text.split(".")[0]
    ]
    assert len(closed) > 0
    assert closed.count("scarce") < 0.05 * len(closed)
    assert abs(closed.count("known") - 2 * closed.count("outdated")) < 0.2 * len(closed)
