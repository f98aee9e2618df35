"""CoSpec: identities, independence of blocks, what the arbiter is shown, and its files."""

import json
import math

import pytest
import torch

from stet.arbiter import DEFAULT, FEATURES, Arbiter, Network
from stet.core.draft_length import AdaptiveLength, FixedLength
from stet.core.errors import LoadError, OptionError
from stet.core.limits import Limits
from stet.core.sampling import SamplingParams
from stet.policies import AutoJudge, Confident, CoSpec, Exact, resolve
from tiny import engine, greedy, llama, near, request, run, seeded

COUNT = 24
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9]]
WIDTH = 32
SIZES = {"target_hidden": WIDTH, "target_hidden_after": WIDTH, "draft_hidden": WIDTH}


@pytest.fixture(scope="module")
def models():
    target = llama()
    return target, near(target, 0.25)


def arbiter(features=DEFAULT, hidden=(), seed=0, **settings):
    """An arbiter with random weights."""
    inputs = sum(SIZES.get(name, 1) for name in features)
    torch.manual_seed(seed)
    network = Network(inputs, hidden)
    return Arbiter(network.requires_grad_(False), tuple(features), **settings)


def linear(weights, bias=0.0):
    """An arbiter that adds up some features."""
    network = Network(len(weights))
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor([list(weights.values())]))
        network.layers[0].bias.fill_(bias)
    return Arbiter(network.requires_grad_(False), tuple(weights))


def decode(models, policy, block, prompts=PROMPTS, sampling=None, **limits):
    machine = engine(*models, rows=len(prompts) + 1)
    length = block if isinstance(block, AdaptiveLength) else FixedLength(block)
    limits = Limits(max_new_tokens=COUNT, draft_length=length, **limits)
    requests = [
        request(p, policy, limits, sampling and seeded(sampling, i)) for i, p in enumerate(prompts)
    ]
    run(machine, requests)
    return [item.sequence for item in requests]


# Identities


@pytest.mark.parametrize("block", [1, 4, 9])
@pytest.mark.parametrize("defers_bonus", [True, False])
def test_always_the_target_is_the_target(models, block, defers_bonus):
    policy = CoSpec(arbiter(), threshold=1.0, defers_bonus=defers_bonus)
    for prompt, sequence in zip(PROMPTS, decode(models, policy, block), strict=True):
        assert sequence.answer == greedy(models[0], prompt, COUNT)


@pytest.mark.parametrize("block", [1, 3, 4, 5, 24, 30])
def test_always_the_draft_accepts_everything(models, block):
    for sequence in decode(models, CoSpec(arbiter(), threshold=0.0), block):
        prompt = sequence.tokens[: sequence.prompt_length]
        assert sequence.answer == greedy(models[1], prompt, COUNT)
        assert sequence.counters.target_passes == math.ceil(COUNT / block)
        assert sequence.counters.accepted_tokens == COUNT


@pytest.mark.parametrize("block", [1, 3, 5, 11, 23, 30])
def test_without_deferring_a_block_is_followed_by_the_target_s_token(models, block):
    for sequence in decode(models, CoSpec(arbiter(), threshold=0.0, defers_bonus=False), block):
        assert sequence.counters.target_passes == math.ceil(COUNT / (block + 1))
        assert all(b.accepted == len(b.drafted) for b in sequence.blocks)


def test_one_model_twice_has_no_mismatches(models):
    for prompt, sequence in zip(
        PROMPTS, decode((models[0], models[0]), CoSpec(arbiter()), 4), strict=True
    ):
        assert sequence.answer == greedy(models[0], prompt, COUNT)
        assert not any(b.mismatches for b in sequence.blocks)


def test_log_p_of_both_tokens_makes_the_surer_model(models):
    """A line over two features is the plain rule, so the arbiter sees what that rule sees."""
    policy = CoSpec(linear({"draft_draft": 1.0, "target_target": -1.0}))
    ours, theirs = decode(models, policy, 4), decode(models, Confident(), 4)
    assert [s.answer for s in ours] == [s.answer for s in theirs]
    assert [s.reasons for s in ours] == [s.reasons for s in theirs]


def test_autojudge_is_the_same_with_another_name_and_other_labels(models):
    made = arbiter(seed=1)
    ours, theirs = decode(models, AutoJudge(made), 4), decode(models, CoSpec(made), 4)
    assert [s.answer for s in ours] == [s.answer for s in theirs]
    assert resolve("autojudge", {"arbiter": made}) == AutoJudge(made) != CoSpec(made)


# Blocks and batches


FREE = [name for name, feature in FEATURES.items() if not feature.in_block]


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_text_does_not_depend_on_blocks(models, hidden):
    """The token after a whole block is arbitrated too, or this would fail."""
    policy = CoSpec(arbiter(FREE, hidden, seed=1))
    texts = {
        tuple(tuple(s.answer) for s in decode(models, policy, block))
        for block in (1, 2, 3, 4, 8, 30, AdaptiveLength(draft_cost=0.2))
    }
    assert len(texts) == 1
    (found,) = texts
    for model in models:
        assert found != tuple(tuple(greedy(model, p, COUNT)) for p in PROMPTS)


def test_without_deferring_text_depends_on_blocks(models):
    """The power of the test above."""
    policy = CoSpec(arbiter(FREE), defers_bonus=False)
    texts = {tuple(tuple(s.answer) for s in decode(models, policy, b)) for b in (1, 2, 4, 8)}
    assert len(texts) > 1


def test_batch_mates_change_nothing(models):
    policies = [CoSpec(arbiter(FREE)), Exact(), CoSpec(arbiter(seed=1), 0.4), Confident()]
    alone = [decode(models, p, 4, [PROMPTS[i % 3]])[0].answer for i, p in enumerate(policies)]
    machine = engine(*models, rows=5)
    limits = Limits(max_new_tokens=COUNT, draft_length=FixedLength(4))
    requests = [request(PROMPTS[i % 3], p, limits) for i, p in enumerate(policies)]
    assert run(machine, requests) == alone


def test_sampled_text_under_an_arbiter_that_accepts_no_mismatch_is_that_of_the_exact_rule(models):
    """Token by token the same law; with blocks of one and nothing deferred the same numbers."""
    sampling = SamplingParams(temperature=1.0)
    prompts = [[i, j] for i in range(1, 9) for j in range(1, 4)]
    ours = decode(models, CoSpec(arbiter(), 1.0, defers_bonus=False), 4, prompts, sampling)
    theirs = decode(models, Exact(), 4, prompts, sampling)
    # What follows a block draws its own number, so only the first blocks are alike.
    assert [s.blocks[0].accepted for s in ours] == [s.blocks[0].accepted for s in theirs]
    assert all(not b.accepted_mismatches for s in ours for b in s.blocks)


def test_sampling_accepts_what_the_exact_rule_rejects(models):
    sampling = SamplingParams(temperature=1.0)
    for sequence in decode(models, CoSpec(arbiter(), 0.0), 4, sampling=sampling):
        assert sequence.counters.accepted_tokens == COUNT
        accepted_mismatches = {
            (b.position + at) for b in sequence.blocks for at in b.accepted_mismatches
        }
        assert accepted_mismatches == {
            i for i, r in enumerate(sequence.reasons) if r == "accepted_mismatch"
        }


# What is seen and recorded


def test_features_are_what_they_say(models):
    """Every feature against plain Python, at every mismatch that was decided."""
    from stet.policies.arbiter_inference import Above, arbitrate
    from stet.policies.cospec import CoSpec as Policy

    names = list(FEATURES)

    class Recording(Policy):
        def verify(self, blocks):
            return arbitrate(blocks, self._arbiter, Above(0.5), keep=True)

    checked = 0
    for sequence in decode(models, Recording(arbiter(names)), 5):
        accepted_mismatches = 0
        for block in sequence.blocks:
            in_block = 0
            for mismatch in block.mismatches:
                place = block.position + mismatch.at
                prefix = sequence.tokens[: sequence.prompt_length + block.position]
                prefix += block.drafted[: mismatch.at]
                seen = dict(zip(names, _split(mismatch.features, names), strict=True))
                expected = _expected(models, prefix, mismatch, block)
                expected |= {
                    "answered": place,
                    "accepted_mismatches": accepted_mismatches,
                    "place": mismatch.at,
                }
                expected["accepted_mismatches_in_block"] = in_block
                for name, value in expected.items():
                    assert seen[name] == pytest.approx(value, abs=2e-3), name
                accepted_mismatches += mismatch.accepted
                in_block += mismatch.accepted
                checked += 1
    assert checked > 10


def _split(values, names):
    start, found = 0, []
    for name in names:
        size = SIZES.get(name, 1)
        found.append(values[start] if size == 1 else values[start : start + size])
        start += size
    assert start == len(values)
    return found


@torch.inference_mode()
def _expected(models, prefix, mismatch, block):
    outs = [m(torch.tensor([[*prefix, mismatch.draft]]), output_hidden_states=True) for m in models]
    at = len(prefix) - 1
    p, q = (o.logits[0, at].log_softmax(-1) for o in outs)
    after = outs[0].logits[0, at + 1].log_softmax(-1)
    d, t = mismatch.draft, mismatch.target
    rest = block.drafted[mismatch.at + 1 :]
    whole = [*prefix, d, *rest]
    own = models[0](torch.tensor([whole])).logits[0].argmax(-1).tolist()
    followed = 0
    while followed < len(rest) and rest[followed] == own[len(prefix) + followed]:
        followed += 1
    best = [set(x.topk(5).indices.tolist()) for x in (p, q)]
    return {
        "target_target": float(p[t]),
        "target_draft": float(p[d]),
        "draft_draft": float(q[d]),
        "draft_target": float(q[t]),
        "target_entropy": float(-(p.exp() * p).sum()),
        "draft_entropy": float(-(q.exp() * q).sum()),
        "target_rank": math.log1p(int((p > p[d]).sum())),
        "draft_rank": math.log1p(int((q > q[t]).sum())),
        "overlap": len(best[0] & best[1]) / 5,
        "entropy_after": float(-(after.exp() * after).sum()),
        "surest_after": float(after.max()),
        "followed": math.log1p(followed),
        "target_hidden": outs[0].hidden_states[-1][0, at].tolist(),
        "target_hidden_after": outs[0].hidden_states[-1][0, at + 1].tolist(),
        "draft_hidden": outs[1].hidden_states[-1][0, at].tolist(),
    }


def test_every_feature_is_looked_at_on_all_positions_alike(models):
    """On an accelerator, where positions are not selected, the decisions are the same."""
    from unittest import mock

    policy = CoSpec(arbiter(list(FEATURES)))
    expected = [s.answer for s in decode(models, policy, 5)]

    import stet.policies.arbiter_inference as module

    with mock.patch.object(module, "kind_of", return_value="somewhere"):
        assert [s.answer for s in decode(models, policy, 5)] == expected


def test_text_that_no_model_drafted_is_decided_about_too():
    """Copied text is certain of its tokens, though there are no logits of a draft."""
    policy = CoSpec(arbiter(["draft_draft", "draft_target", "draft_rank", "overlap"]), 0.5)
    prompts = [[n, n + 1, n + 3] * 4 for n in range(4)]
    sequences = decode((llama(), None), policy, 4, prompts)
    assert sum(len(b.mismatches) for s in sequences for b in s.blocks) > 5
    for sequence, prompt in zip(sequences, prompts, strict=True):
        assert sequence.answer == decode((llama(), None), policy, 4, [prompt])[0].answer


def test_mismatches_are_recorded_with_the_arbiter_s_probability(models):
    policy = CoSpec(arbiter(seed=1), threshold=0.5)
    stood = declined = 0
    for sequence in decode(models, policy, 5):
        for block in sequence.blocks:
            assert [d.at for d in block.mismatches if d.accepted] == block.accepted_mismatches
            for mismatch in block.mismatches:
                assert mismatch.accepted == (mismatch.score > 0.5)
                assert mismatch.draft == block.drafted[mismatch.at] != mismatch.target
                assert mismatch.features == []
                if not mismatch.accepted:
                    assert mismatch.at == block.accepted
                    assert block.next_token in (mismatch.target, None)
                stood, declined = stood + mismatch.accepted, declined + (not mismatch.accepted)
    assert stood > 2
    assert declined > 2


def test_only_what_is_looked_at_is_kept():
    from stet.policies import Need

    assert Need.TARGET_HIDDEN not in CoSpec(arbiter()).needs
    assert Need.TARGET_HIDDEN in CoSpec(arbiter(["target_hidden"])).needs
    assert CoSpec(arbiter(["target_target"])).needs == {Need.DRAFT_PROBS}
    assert Need.DRAFT_HIDDEN in CoSpec(arbiter(["draft_hidden"])).needs


# Files and refusals


def test_an_arbiter_comes_back_from_its_folder(models, tmp_path):
    made = arbiter(hidden=(6,), pair="abc", threshold=0.3, trained={"seed": 4})
    CoSpec(made).save_pretrained(tmp_path / "policy")
    for policy in (
        CoSpec.load(tmp_path / "policy"),
        CoSpec.from_pretrained(str(tmp_path / "policy")),
        resolve("cospec", {"arbiter": str(tmp_path / "policy")}),
    ):
        assert policy.pair == "abc"
        assert policy._arbiter.threshold == 0.3
        assert policy._arbiter.trained == {"seed": 4}
        ours, theirs = decode(models, policy, 4), decode(models, CoSpec(made), 4)
        assert [s.answer for s in ours] == [s.answer for s in theirs]


def test_damaged_files_are_refused_in_a_sentence(tmp_path):
    folder = tmp_path / "policy"
    with pytest.raises(LoadError, match="There is no arbiter in"):
        CoSpec.load(folder)
    arbiter().save(folder)
    good = json.loads((folder / "arbiter.json").read_text())
    for change, sentence in (
        ({"format": 9}, "format 9, and this version reads 1"),
        ({"features": ["mood"]}, "There is no feature 'mood'"),
        ({"inputs": 4}, "does not fit arbiter.json"),
        ({"hidden": "wide"}, "is not of an arbiter"),
        ({"threshold": 2.0}, "threshold is 2.0"),
    ):
        (folder / "arbiter.json").write_text(json.dumps(good | change))
        with pytest.raises((LoadError, OptionError), match=sentence):
            CoSpec.load(folder)
    for text in ("{}", "[]"):
        (folder / "arbiter.json").write_text(text)
        with pytest.raises(LoadError, match="is not of an arbiter"):
            CoSpec.load(folder)
    (folder / "arbiter.json").write_text("{")
    with pytest.raises(LoadError, match="cannot be read"):
        CoSpec.load(folder)
    (folder / "arbiter.json").write_text(json.dumps(good))
    (folder / "arbiter.safetensors").write_bytes(b"no")
    with pytest.raises(LoadError, match="cannot be read"):
        CoSpec.load(folder)


def test_numbers_of_another_size_name_the_arbiter(models):
    policy = CoSpec(Arbiter(Network(3).requires_grad_(False), DEFAULT, name="mine"))
    machine = engine(*models)
    item = request(PROMPTS[0], policy, Limits(max_new_tokens=8))
    with pytest.raises(OptionError, match="The arbiter mine reads 3 numbers"):
        run(machine, [item])


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"threshold": 1.5, "arbiter": "x"}, "threshold is 1.5"),
        ({"arbiter": None}, "arbiter is None"),
        ({"arbiter": ""}, "arbiter is ''"),
        ({"arbiter": 3}, "arbiter is 3"),
        ({"arbiter": "nowhere/at/all"}, "There is no arbiter in nowhere"),
    ],
)
def test_parameters_are_refused(parameters, sentence):
    with pytest.raises((OptionError, LoadError), match=sentence):
        _ = resolve("cospec", parameters).needs  # a name is read when it is first used


def test_upload_sends_the_two_files_and_nothing_else(monkeypatch):
    sent = []

    class Hub:
        def create_repo(self, name, **options):
            sent.append((name, options))

        def upload_folder(self, *, repo_id, folder_path):
            from pathlib import Path

            sent.append((repo_id, sorted(f.name for f in Path(folder_path).iterdir())))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    CoSpec(arbiter()).push_to_hub("me/mine", private=True)
    assert sent == [
        ("me/mine", {"exist_ok": True, "private": True}),
        ("me/mine", ["arbiter.json", "arbiter.safetensors"]),
    ]


@pytest.mark.parametrize("hidden", [(), (8,), (16, 8)])
def test_a_single_position_in_numbers_is_what_tensors_say(models, hidden):
    from stet.policies import arbiter_inference as module

    policy = CoSpec(arbiter(hidden=hidden, seed=2))
    assert policy._arbiter.in_numbers
    found = []
    for few in (0, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "FEW", few)
            found.append(decode(models, policy, 5))
    tensors, numbers = found
    assert [s.answer for s in tensors] == [s.answer for s in numbers]
    scores = [
        [d.score for s in sequences for b in s.blocks for d in b.mismatches] for sequences in found
    ]
    assert len(scores[0]) > 10
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_numbers_of_a_distribution():
    from stet.arbiter.position import PlainReading

    logits = torch.tensor([2.0, 1.0, -1.0, -torch.inf, -200.0, 0.5])
    expected = logits.log_softmax(-1)
    entropy = float(torch.special.entr(expected.exp()).sum())
    for target, draft in ((0, 1), (1, 2), (2, 0), (0, 3), (3, 4), (4, 5)):
        found = PlainReading.of(logits, target, draft)
        assert found.of_target == pytest.approx(max(float(expected[target]), -30), abs=1e-5)
        assert found.of_draft == pytest.approx(max(float(expected[draft]), -30), abs=1e-5)
        assert found.entropy == pytest.approx(entropy, abs=1e-5)


def test_numbers_follow_the_weights(models):
    made = arbiter(seed=1)
    policy = CoSpec(made)
    before = [s.answer for s in decode(models, policy, 4)]
    with torch.no_grad():
        made.network.layers[0].weight.neg_()
        made.network.layers[0].bias.neg_()
    assert [s.answer for s in decode(models, policy, 4)] != before


def test_a_copy_on_a_device_follows_the_weights():
    made, there = arbiter(), torch.device("meta")
    first = made._on(there)
    assert made._on(there) is first
    assert next(first.parameters()).device == there
    with torch.no_grad():
        made.network.layers[0].bias.add_(1)
    assert made._on(there) is not first
    assert next(made.network.parameters()).device.type == "cpu"  # where training changes it


def test_logits_are_joined_once_and_not_stored_twice():
    from stet.core.block import Steps

    parts = [torch.randn(2, 1, 5) for _ in range(3)]
    found, expected = Steps(parts), torch.cat(parts, 1)
    assert (len(found), found.size) == (3, 5)
    assert torch.equal(found.at(1, 2), expected[1, 2])
    assert torch.equal(found.whole, expected)
    assert found.whole is found.whole
    assert torch.equal(found.at(1, 2), expected[1, 2])
    assert (len(found), found._steps) == (3, [])


def test_large_networks_and_other_features_stay_tensors():
    assert not arbiter(hidden=(64, 64)).in_numbers
    assert not arbiter(["target_target", "overlap"]).in_numbers
