"""transformers' `generate` with Stet's loop writes what it writes with its own."""

import copy
import gc
import time
import weakref
from inspect import getsource

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import DynamicCache, GenerationConfig
from transformers.generation import (
    GenerateDecoderOnlyOutput,
    GenerationMixin,
    LogitsProcessor,
    MinLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    StoppingCriteria,
    TopKLogitsWarper,
)

import stet
from families import VOCAB, build, needs_transformers
from stet.core.errors import CompatibilityError, OptionError, StetError
from stet.integrations import borrowed
from stet.policies import TokenPolicy
from tiny import llama, near

PAD = 0


def pair_of_models():
    large = llama(vocab=VOCAB, layers=3)
    return large, near(large, 0.05)


@pytest.fixture
def models():
    return pair_of_models()


def padded(prompts):
    """Left-padded tokens and their mask."""
    longest = max(map(len, prompts))
    rows = [[PAD] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


ONE = padded([[5, 9, 31, 4, 17]])
SEVERAL = padded([[5, 9, 31, 4, 17], [8], [12, 40, 3], [6, 6, 22, 51, 7, 33, 18, 29]])


def both(models, inputs, policy="exact", **settings):
    """What `generate` returns by itself and with Stet, and Stet's callable."""
    model, draft = models
    if settings.get("repetition_penalty", 1.0) != 1.0 and (inputs["input_ids"] == PAD).any():
        needs_transformers("5.23", "a repetition penalty that leaves padding out")
    settings = {"max_new_tokens": 30, "pad_token_id": PAD, "eos_token_id": None, **settings}
    wanted = model.generate(**inputs, **settings)
    # As long as it is chosen, a draft as dear as these tiny ones would soon be left out.
    loop = stet.custom_generate(policy, assistant_model=draft, draft_length=4)
    return wanted, model.generate(**inputs, custom_generate=loop, **settings), loop


@pytest.mark.parametrize("policy", ["exact", "block", "target"])
@pytest.mark.parametrize("inputs", [ONE, SEVERAL], ids=["one", "several"])
def test_lossless_policies_write_what_the_model_writes(models, inputs, policy):
    wanted, found, loop = both(models, inputs, policy)
    assert torch.equal(found, wanted)
    assert found.dtype == wanted.dtype
    accepted = sum(result.counters.accepted_tokens for result in loop.results)
    assert (accepted == 0) == (policy == "target")
    assert [r.counters.emitted_tokens for r in loop.results] == [30] * len(inputs["input_ids"])


def test_another_policy_may_write_something_else(models):
    wanted, found, _ = both((models[0], near(models[0], 0.5)), ONE, "draft")
    assert not torch.equal(found, wanted)


def test_lookup_needs_no_assistant(models):
    wanted, found, loop = both((models[0], "lookup"), padded([[7, 8, 9, 7, 8, 9, 7]]))
    assert torch.equal(found, wanted)
    assert loop.results[0].counters.draft_passes == 0


def test_answers_end_at_any_of_the_end_tokens_and_are_padded_behind(models):
    free, _, _ = both(models, SEVERAL)
    start = SEVERAL["input_ids"].shape[1]
    # Tokens that end the rows early, at different places.
    ends = [int(free[1, start + 4]), int(free[3, start + 9])]
    wanted, found, loop = both(models, SEVERAL, eos_token_id=ends)
    assert torch.equal(found, wanted)
    lengths = {r.counters.emitted_tokens for r in loop.results}
    assert len(lengths) > 1
    assert {r.finish_reason for r in loop.results} == {"stop", "length"}
    assert (found[:, -1] == PAD).any()


def test_without_a_pad_token_the_first_end_token_pads(models):
    free, _, _ = both(models, SEVERAL)
    end = int(free[1, SEVERAL["input_ids"].shape[1] + 4])
    wanted, found, _ = both(models, SEVERAL, eos_token_id=[end, 66], pad_token_id=None)
    assert torch.equal(found, wanted)
    assert found[1, -1] == end


def test_all_rows_ending_early_give_a_short_result(models):
    free, _, _ = both(models, ONE)
    end = int(free[0, ONE["input_ids"].shape[1] + 3])
    wanted, found, _ = both(models, ONE, eos_token_id=end)
    assert torch.equal(found, wanted)
    assert found.shape[1] < free.shape[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.4},
        {"repetition_penalty": 0.8},
        {"max_new_tokens": None, "max_length": 20},
        {"max_new_tokens": 1},
        {"suppress_tokens": [3, 14, 15]},
        {"bad_words_ids": [[3], [14], [15]]},
        {"sequence_bias": {(3,): 4.0, (14,): -3.0}},
        {"sequence_bias": {(3,): 4.0}, "repetition_penalty": 1.3, "suppress_tokens": [9]},
        {"renormalize_logits": True},
        {"logits_processor": [RepetitionPenaltyLogitsProcessor(1.5)], "inputs": ONE},
        {"logits_processor": [SequenceBiasLogitsProcessor({(7,): 5.0})]},
        {"max_time": 1000.0},
        {"use_cache": False},
        {"num_beams": 1, "length_penalty": 1.0, "no_repeat_ngram_size": 0},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings_mean_what_they_mean_without_stet(models, settings):
    inputs = settings.get("inputs", SEVERAL)
    settings = {name: value for name, value in settings.items() if name != "inputs"}
    wanted, found, _ = both(models, inputs, **copy.deepcopy(settings))
    assert torch.equal(found, wanted)


def test_each_of_these_settings_changes_the_text(models):
    plain, _, _ = both(models, SEVERAL)
    for settings in (
        {"repetition_penalty": 1.4},
        {"suppress_tokens": plain[:, -5].tolist()},
        {"sequence_bias": {(3,): 4.0}},
    ):
        changed, _, _ = both(models, SEVERAL, **settings)
        assert not torch.equal(changed, plain)


def test_settings_may_come_as_a_generation_config(models):
    config = GenerationConfig(max_new_tokens=12, repetition_penalty=1.2, pad_token_id=PAD)
    model, draft = models
    wanted = model.generate(**ONE, generation_config=config)
    loop = stet.custom_generate(assistant_model=draft)
    found = model.generate(**ONE, generation_config=config, custom_generate=loop)
    assert torch.equal(found, wanted)


def test_a_dictionary_is_returned_where_asked_for(models):
    wanted, found, _ = both(models, ONE, return_dict_in_generate=True)
    assert isinstance(found, GenerateDecoderOnlyOutput)
    assert torch.equal(found.sequences, wanted.sequences)


def test_sampling_follows_the_callers_seed_and_settings(models):
    model, draft = models
    loop = stet.custom_generate("block", assistant_model=draft)

    def sample(seed, **settings):
        torch.manual_seed(seed)
        settings = {"max_new_tokens": 25, "do_sample": True, "temperature": 1.5, **settings}
        return model.generate(**ONE, custom_generate=loop, num_return_sequences=3, **settings)

    first = sample(1)
    assert torch.equal(first, sample(1))
    assert not torch.equal(first, sample(2))
    assert len({tuple(row) for row in first.tolist()}) == 3
    sampling = loop.results[0].trace.settings.sampling
    assert (sampling["temperature"], sampling["top_k"]) == (1.5, 50)  # 50 is transformers' default
    sample(1, top_k=0, top_p=0.9, min_p=0.1, temperature=1.0)
    sampling = loop.results[0].trace.settings.sampling
    names = ("temperature", "top_k", "top_p", "min_p")
    assert [sampling[name] for name in names] == [1.0, 0, 0.9, 0.1]
    # One token to choose from is greedy decoding.
    greedy = model.generate(**ONE, max_new_tokens=25)
    assert torch.equal(sample(3, top_k=1)[:1], greedy)


class Shift(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores.roll(1, -1)


class Never(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size=2"),
        ({"min_new_tokens": 5}, "min_new_tokens=5"),
        ({"min_length": 15}, "min_length=15"),
        ({"guidance_scale": 1.5}, "guidance_scale=1.5"),
        ({"typical_p": 0.9, "do_sample": True}, "typical_p=0.9"),
        ({"top_h": 0.5, "do_sample": True}, "top_h=0.5"),
        ({"epsilon_cutoff": 0.1, "do_sample": True}, "epsilon_cutoff=0.1"),
        ({"forced_eos_token_id": 2}, "forced_eos_token_id=2"),
        ({"begin_suppress_tokens": [4]}, "begin_suppress_tokens"),
        ({"remove_invalid_values": True}, "remove_invalid_values=True"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores=True"),
        ({"output_logits": True, "return_dict_in_generate": True}, "output_logits=True"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions=True"),
        ({"output_hidden_states": True}, "output_hidden_states=True"),
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens=3"),
        ({"num_assistant_tokens": 5}, "num_assistant_tokens=5"),
        ({"bad_words_ids": [[3, 4]]}, "single tokens"),
        ({"sequence_bias": {(3, 4): 1.0}}, "single tokens"),
        ({"logits_processor": [Shift()]}, "processor Shift"),
        ({"logits_processor": [MinLengthLogitsProcessor(9, 2)]}, "MinLengthLogitsProcessor"),
        ({"logits_processor": [RepetitionPenaltyLogitsProcessor(1.1, 3)]}, "these settings"),
        ({"logits_processor": [TopKLogitsWarper(5, filter_value=-9.0)]}, "these settings"),
        (
            {
                "logits_processor": [SequenceBiasLogitsProcessor({(7,): 5.0})],
                "repetition_penalty": 1.2,
            },
            "earlier or only once",
        ),
        ({"stopping_criteria": [Never()]}, "stop by Never"),
        ({"past_key_values": DynamicCache()}, "past_key_values"),
        ({"position_ids": torch.tensor([[0, 1, 2, 3, 7]])}, "position_ids"),
        ({"max_new_tokens": 1000}, "exceed the context of 512 tokens"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(models, settings, message):
    model, draft = models
    loop = stet.custom_generate(assistant_model=draft)
    if message == "past_key_values" and "_is_user_defined" not in getsource(GenerationMixin):
        pytest.skip("this transformers does not tell an empty cache from its own")
    settings = {"max_new_tokens": 5, "pad_token_id": PAD, **settings}
    with pytest.raises(OptionError, match=message):
        model.generate(**ONE, custom_generate=loop, **settings)
    assert model.config._attn_implementation == "sdpa"


def test_a_penalty_that_counts_padding_is_refused(models):
    """As transformers before 5.23 makes it of `repetition_penalty`."""
    loop = stet.custom_generate(assistant_model=models[1])
    penalty = [RepetitionPenaltyLogitsProcessor(1.5)]
    settings = {"max_new_tokens": 5, "pad_token_id": PAD, "logits_processor": penalty}
    with pytest.raises(OptionError, match="counts padding.*give prompts of one length"):
        models[0].generate(**SEVERAL, custom_generate=loop, **settings)


def test_every_field_is_either_honoured_or_refused(models):
    """A field that a later transformers adds is refused until someone has looked at it."""
    from stet.integrations import generation_settings as settings

    config = GenerationConfig(pad_token_id=PAD)
    config.a_new_idea = 3
    settings._check_fields(config)  # custom entries mean nothing to transformers either
    usual = GenerationConfig._get_default_generation_params()
    known = settings._SUPPORTED | settings._NO_EFFECT
    for name in vars(GenerationConfig()):
        if name.startswith("_"):
            continue
        config = GenerationConfig()
        setattr(config, name, 7.5)
        assert usual.get(name) != 7.5
        if name in known:
            settings._check_fields(config)
        else:
            with pytest.raises(OptionError, match=name):
                settings._check_fields(config)


def test_padding_on_the_right_and_inputs_that_are_no_tokens_are_refused(models):
    model, draft = models
    loop = stet.custom_generate(assistant_model=draft)
    right = {"input_ids": ONE["input_ids"], "attention_mask": torch.tensor([[1, 1, 1, 0, 0]])}
    with pytest.raises(OptionError, match="padded on the left"):
        model.generate(**right, custom_generate=loop, max_new_tokens=5)
    embedded = model.get_input_embeddings()(ONE["input_ids"])
    with pytest.raises(OptionError, match="inputs_embeds"):
        model.generate(inputs_embeds=embedded, custom_generate=loop, max_new_tokens=5)


def test_wrong_arguments_are_refused_at_once(models):
    draft = models[1]
    with pytest.raises(OptionError, match="no policy 'exactly'"):
        stet.custom_generate("exactly", assistant_model=draft)
    with pytest.raises(OptionError, match="no parameter 'k'"):
        stet.custom_generate("exact", assistant_model=draft, policy_parameters={"k": 1})
    with pytest.raises(OptionError, match="assistant_model is 'draft'"):
        stet.custom_generate(assistant_model="draft")
    with pytest.raises(OptionError, match="no draft model"):
        stet.custom_generate("draft", assistant_model="lookup")


@pytest.mark.parametrize("more", [3, -3, -40])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_an_assistant_may_have_more_or_fewer_rows(models, more, penalty):
    """Families pad their vocabularies; here nobody knows which rows are padding."""
    other = (models[0], llama(vocab=VOCAB + more))
    wanted, found, _ = both(other, SEVERAL, repetition_penalty=penalty)
    assert torch.equal(found, wanted)
    pair = borrowed._pairs[models[0]][other[1]]
    again, found, _ = both(other, SEVERAL, repetition_penalty=penalty)
    assert torch.equal(found, again)
    assert borrowed._pairs[models[0]][other[1]] is pair


def test_longrope_would_have_to_be_fixed_for_good(models):
    model = build("phi3-longrope")
    loop = stet.custom_generate(assistant_model=models[1])
    with pytest.raises(CompatibilityError, match="longrope"):
        model.generate(**ONE, custom_generate=loop, max_new_tokens=5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_models_come_back_as_they_were(models, implementation):
    for model in models:
        model.set_attn_implementation(implementation)
        model.train()
        model.model.layers[0].eval()  # a part frozen by its owner
        model.lm_head.weight.requires_grad_(False)

    def state(model):
        return (
            [m.training for m in model.modules()],
            [p.requires_grad for p in model.parameters()],
            model.config._attn_implementation,
            model.model.config._attn_implementation,
            {k: v.clone() for k, v in model.state_dict().items()},
            sorted(vars(model)),
        )

    before = [state(model) for model in models]
    plain = models[0].generate(**ONE, max_new_tokens=20)
    _, found, _ = both(models, ONE, max_new_tokens=20)
    assert torch.equal(found, plain)
    for model, old in zip(models, before, strict=True):
        new = state(model)
        assert new[:4] == old[:4]
        assert new[5] == old[5]
        assert all(torch.equal(new[4][k], old[4][k]) for k in old[4])
        assert torch.equal(model(ONE["input_ids"]).logits, copy.deepcopy(model)(**ONE).logits)
        # It can be trained.
        model(**ONE, labels=ONE["input_ids"]).loss.backward()
        assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
    assert torch.equal(models[0].generate(**ONE, max_new_tokens=20), plain)


class Broken(stet.Exact):
    name = "broken"

    def verify(self, blocks):
        raise RuntimeError("it was me")


def test_the_models_come_back_after_a_failure_too(models, monkeypatch):
    model, draft = models
    plain = model.generate(**ONE, max_new_tokens=20)
    policy: TokenPolicy = Broken()
    loop = stet.custom_generate(policy, assistant_model=draft)
    with pytest.raises(StetError, match="it was me"):
        model.generate(**ONE, custom_generate=loop, max_new_tokens=20)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    loop = stet.custom_generate(assistant_model=draft)
    with monkeypatch.context() as patch:
        patch.setattr("stet.pair.Pair.generate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.generate(**ONE, custom_generate=loop, max_new_tokens=20)
    for each in models:
        assert each.config._attn_implementation == "sdpa"
    assert torch.equal(model.generate(**ONE, max_new_tokens=20), plain)
    # Nothing of the failed calls is left in the caches.
    assert torch.equal(model.generate(**ONE, custom_generate=loop, max_new_tokens=20), plain)


def test_models_are_prepared_once_and_forgotten_with_their_owner(monkeypatch):
    prepared = []
    real = borrowed.prepare_model

    def counting(model, *args, **kwargs):
        prepared.append(kwargs["role"])
        return real(model, *args, **kwargs)

    monkeypatch.setattr(borrowed, "prepare_model", counting)
    model, draft = pair_of_models()
    both((model, draft), ONE)
    pairs = borrowed._pairs[model]
    first = pairs[draft]
    both((model, draft), ONE)
    assert prepared == ["target", "draft"]
    assert pairs[draft] is first
    both((model, draft), SEVERAL, max_new_tokens=400)
    assert pairs[draft] is not first  # more room
    assert (pairs[draft].max_batch, pairs[draft].max_length) == (4, 512)
    assert prepared == ["target", "draft"]
    other = near(model, 0.1)
    wanted, found, loop = both((model, other), ONE)
    assert torch.equal(found, wanted)
    assert prepared == ["target", "draft", "draft"]
    assert len(pairs) == 2
    del other, first, loop
    gc.collect()
    assert len(pairs) == 1
    gone = [weakref.ref(model), weakref.ref(draft)]
    if Version(transformers.__version__) >= Version("5.1"):  # 5.0 keeps layers alive itself
        gone.append(weakref.ref(model.model.layers[0]))
    del model, draft
    gc.collect()
    deadline = time.monotonic() + 60  # the pair's thread is told to end, and then lets go
    while any(ref() is not None for ref in gone) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {ref() for ref in gone} == {None}
    assert len(pairs) == 0


def test_a_model_that_changed_is_looked_at_again(models):
    model, draft = models
    both(models, ONE)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)  # weights are never copied
    wanted, found, _ = both(models, ONE)
    assert torch.equal(found, wanted)
    for one in models:
        one.resize_token_embeddings(VOCAB + 5, mean_resizing=False)
    wanted, found, _ = both(models, ONE)
    assert torch.equal(found, wanted)
    head = copy.deepcopy(model.get_output_embeddings())
    model.set_output_embeddings(head)
    with torch.no_grad():
        head.weight.neg_()
    wanted, found, _ = both(models, ONE)
    assert torch.equal(found, wanted)
    draft.double()  # alone
    wanted, found, _ = both(models, ONE)
    assert torch.equal(found, wanted)
    model.double()
    wanted, found, _ = both(models, ONE)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "mistral", "gpt2"])
def test_other_families(family):
    model = build(family)
    model.generation_config.pad_token_id = PAD
    loop = stet.custom_generate(assistant_model=build(family, seed=1))
    settings = {"max_new_tokens": 20, "eos_token_id": None, "pad_token_id": PAD}
    wanted = model.generate(**SEVERAL, **settings)
    found = model.generate(**SEVERAL, custom_generate=loop, **settings)
    assert torch.equal(found, wanted)
    assert torch.equal(model.generate(**SEVERAL, **settings), wanted)
