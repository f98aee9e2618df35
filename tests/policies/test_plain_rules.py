"""The plain lossy rules against slow references written from their definitions."""

import math

import pytest
import torch

from stet.core.acceptance import ACCEPTED_MISMATCH
from stet.core.blocks import Blocks
from stet.core.draft_length import FixedLength
from stet.core.errors import OptionError
from stet.core.limits import Limits
from stet.core.sampling import Sampler, SamplingParams
from stet.policies import Cascade, Confident, Ensemble, Exact, SpeculativeCascade, resolve
from stet.programs import cascade, drafting
from tiny import engine, greedy, llama, near, request, run, seeded

COUNT = 24
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9]]


@pytest.fixture(scope="module")
def models():
    target = llama()
    return target, near(target, 0.25)


def limits(block: int) -> Limits:
    return Limits(max_new_tokens=COUNT, draft_length=FixedLength(block))


def decode(models, policy, block, prompts=PROMPTS, rows=4):
    machine = engine(*models, rows=rows)
    requests = [request(p, policy, limits(block)) for p in prompts]
    run(machine, requests)
    return [item.sequence for item in requests]


@torch.inference_mode()
def by_hand(models, prompt, choose):
    """Greedy decoding where `choose` sees both models' log-probs of the next token."""
    tokens = list(prompt)
    for _ in range(COUNT):
        both = [m(torch.tensor([tokens])).logits[0, -1].log_softmax(-1) for m in models]
        tokens.append(int(choose(*both)))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("block", [1, 2, 5, 9])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("space", ["logprobs", "probs"])
def test_an_ensemble_is_greedy_decoding_from_the_mean(models, block, weight, space):
    def choose(p, q):
        if space == "probs":
            return ((1 - weight) * p.exp() + weight * q.exp()).argmax()
        return ((1 - weight) * p + weight * q).argmax()

    written = decode(models, Ensemble(weight, space), block)
    for prompt, sequence in zip(PROMPTS, written, strict=True):
        assert sequence.answer == by_hand(models, prompt, choose)


@pytest.mark.parametrize("block", [1, 2, 5, 9])
@pytest.mark.parametrize(
    ("rule", "cost"),
    [
        *[("chow", cost) for cost in (0.3, 0.8)],
        *[("difference", cost) for cost in (0.0, 0.1)],
        *[("optimal", cost) for cost in (0.0, 0.3, 0.6)],
    ],
)
def test_a_speculative_cascade_is_greedy_decoding_by_its_rule(models, block, rule, cost):
    deferred = []

    def choose(p, q):
        p, q = p.exp(), q.exp()
        apart = float((p - q).clamp(min=0).sum())
        sure = float(q.max())
        least = {
            "chow": 1 - cost,
            "difference": float(p.max()) - cost,
            "optimal": float(p.max()) - cost * apart,
        }[rule]
        deferred.append(sure < least)
        return (p if sure < least else q).argmax()

    written = decode(models, SpeculativeCascade(rule, cost), block)
    for prompt, sequence in zip(PROMPTS, written, strict=True):
        assert sequence.answer == by_hand(models, prompt, choose)
    assert 0 < sum(deferred) < len(deferred)  # both happen


@pytest.mark.parametrize(("cost", "whose"), [(-1.0, 0), (2.0, 1)])
def test_a_speculative_cascade_with_an_extreme_cost_is_one_model(models, cost, whose):
    written = decode(models, SpeculativeCascade("difference", cost), 4)
    for prompt, sequence in zip(PROMPTS, written, strict=True):
        assert sequence.answer == by_hand(models, prompt, lambda *both: both[whose].argmax())


EDITS = {
    "penalty 1.3": {"repetition_penalty": 1.3},
    "penalty 2": {"repetition_penalty": 2.0},
    "biases": {"logit_bias": {3: 2.0, 7: -3.0, 11: -math.inf}},
    "both": {"repetition_penalty": 1.3, "logit_bias": {3: 2.0, 11: -math.inf}},
    "of the answer": {"frequency_penalty": 0.7, "presence_penalty": 1.5},
}


def edited(logits, prompt, answer, edits):
    """Bias, then penalties, of raw logits [V] behind a prompt and an answer, in plain Python."""
    values = logits.tolist()
    for token, bias in edits.get("logit_bias", {}).items():
        values[token] += bias
    penalty = edits.get("repetition_penalty", 1.0)
    for token in {*prompt, *answer}:
        values[token] *= 1 / penalty if values[token] > 0 else penalty
    for token in answer:
        values[token] -= edits.get("frequency_penalty", 0.0)
    for token in set(answer):
        values[token] -= edits.get("presence_penalty", 0.0)
    return torch.tensor(values)


@torch.inference_mode()
def mean_by_hand(models, prompt, weight, space, edits):
    tokens = list(prompt)
    for _ in range(COUNT):
        p, q = (
            edited(
                m(torch.tensor([tokens])).logits[0, -1], prompt, tokens[len(prompt) :], edits
            ).log_softmax(-1)
            for m in models
        )
        if weight in {0, 1}:
            mean = (p, q)[weight]
        elif space == "probs":
            mean = (1 - weight) * p.exp() + weight * q.exp()
        else:
            mean = (1 - weight) * p + weight * q
        tokens.append(int(mean.argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("weight", [0, 0.5, 1])
@pytest.mark.parametrize("space", ["logprobs", "probs"])
def test_penalty_and_bias_are_on_each_models_logits_before_they_are_averaged(
    models, edits, weight, space
):
    machine = engine(*models, rows=4)
    requests = [
        request(p, Ensemble(weight, space), limits(3), SamplingParams(**edits)) for p in PROMPTS
    ]
    written = run(machine, requests)
    assert written == [mean_by_hand(models, p, weight, space, edits) for p in PROMPTS]


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("space", ["logprobs", "probs"])
def test_at_its_ends_a_sampled_ensemble_has_the_distribution_of_one_model(edits, space):
    generator = torch.Generator().manual_seed(2)
    logits, own = torch.randn(2, 4, 4, 20, generator=generator).mul(3).unbind()
    params = [SamplingParams(temperature=t, top_p=0.9, **edits) for t in (0.7, 1.0, 1.3, 0.0)]
    histories = [[3, 1, 4], [1, 5, 9], [2, 6], [5, 3, 5]]
    drafted = torch.randint(20, (4, 3), generator=generator)
    answers = [history[1:] for history in histories]
    sampler = Sampler(params, histories, 20, torch.device("cpu"), answers)
    blocks = Blocks(
        drafted=drafted,
        lengths=torch.full((4,), 3),
        target_logits=logits,
        sampler=sampler,
        uniforms=lambda slot, count: torch.rand(4, count),
        draft_logits=own[:, :3],
    )
    target = blocks.distribution(Ensemble(0, space).combined(blocks))
    assert torch.allclose(target, blocks.target_probs, atol=1e-6)
    draft = blocks.distribution(Ensemble(1, space).combined(blocks))[:, :3]
    for row, params_ in enumerate(params):
        for place in range(3):
            history = [*histories[row], *drafted[row, :place].tolist()]
            alone = Sampler([params_], [history], 20, torch.device("cpu"), [history[1:]])
            expected = alone.probs(alone.edit(own[row, place][None, None]))[0, 0]
            assert torch.allclose(draft[row, place], expected, atol=1e-6)


@pytest.mark.parametrize("block", [1, 3, 8])
@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.3])
def test_the_surer_model_is_followed_whatever_the_block(models, block, margin):
    def choose(p, q):
        mine, theirs = p.argmax(), q.argmax()
        return theirs if q[theirs].exp() > p[mine].exp() + margin else mine

    written = decode(models, Confident(margin), block)
    for prompt, sequence in zip(PROMPTS, written, strict=True):
        assert sequence.answer == by_hand(models, prompt, choose)


def test_the_rules_differ_here_from_both_models_and_from_each_other(models):
    """Otherwise the tests above could not fail."""
    rules = [Exact(), Ensemble(), Confident(), Confident(-0.3), Ensemble(0.8)]
    texts = [decode(models, rule, 4)[0].answer for rule in rules]
    texts.append(greedy(models[1], PROMPTS[0], COUNT))
    assert len({tuple(t) for t in texts}) >= 4


@pytest.mark.parametrize("block", [1, 3, 4, 5, 24, 30])
def test_accepting_every_draft_costs_one_pass_a_block(models, block):
    """With the bonus token deferred the draft's text comes out, in ceil(T / K) target passes."""
    for sequence in decode(models, Confident(-1.0), block):
        drafted = greedy(models[1], sequence.tokens[: sequence.prompt_length], COUNT)
        assert sequence.answer == drafted
        assert sequence.counters.target_passes == math.ceil(COUNT / block)
        assert sequence.counters.accepted_tokens == COUNT


def test_accepted_mismatches_are_the_draft_s_and_not_the_target_s(models):
    for policy in (Confident(), Ensemble()):
        for sequence in decode(models, policy, 4):
            accepted_mismatches = [
                i for i, r in enumerate(sequence.reasons) if r == ACCEPTED_MISMATCH
            ]
            assert len(accepted_mismatches) == sum(
                len(b.accepted_mismatches) for b in sequence.blocks
            )
            for i, reason in enumerate(sequence.reasons):
                prefix = sequence.tokens[: sequence.prompt_length + i]
                own = greedy(models[0], prefix, 1)[0]
                differs = sequence.answer[i] != own
                assert differs == (reason in {ACCEPTED_MISMATCH, "combined"})
                assert sequence.origins[i] == (
                    "draft" if reason in {"accepted", ACCEPTED_MISMATCH} else "target"
                )
    assert any(
        b.accepted_mismatches for s in decode(models, Confident(-0.3), 4) for b in s.blocks
    ), "no mismatch was accepted, so nothing was tested"


def test_batch_mates_with_other_policies_change_nothing(models):
    policies = [Ensemble(), Confident(), Exact(), Ensemble(0.3), Confident(-0.3), Exact()]
    alone = [decode(models, p, 4, [PROMPTS[i % 3]])[0].answer for i, p in enumerate(policies)]
    machine = engine(*models, rows=6)
    requests = [request(PROMPTS[i % 3], p, limits(4)) for i, p in enumerate(policies)]
    assert run(machine, requests) == alone


def world(rows: int, width: int = 2, vocab: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(1, width + 1, vocab, generator=generator).expand(rows, -1, -1)
    draft = torch.randn(1, width, vocab, generator=generator).expand(rows, -1, -1)
    return target, draft


def sampled_blocks(rows: int) -> tuple[Blocks, torch.Tensor, torch.Tensor]:
    target, draft = world(rows)
    generator = torch.Generator().manual_seed(5)
    q = draft.softmax(-1)
    drafted = torch.stack(
        [torch.multinomial(q[:, i], 1, generator=generator)[:, 0] for i in range(2)], 1
    )
    blocks = Blocks(
        drafted=drafted,
        lengths=torch.full((rows,), 2),
        target_logits=target,
        sampler=Sampler(
            [SamplingParams(temperature=1.0)] * rows, [[0]] * rows, 4, torch.device("cpu")
        ),
        uniforms=lambda slot, count: torch.rand(
            rows, count, generator=torch.Generator().manual_seed(slot)
        ),
        draft_probs=q,
        draft_logits=draft,
    )
    return blocks, target.log_softmax(-1)[0], draft.log_softmax(-1)[0]


@pytest.mark.parametrize("space", ["logprobs", "probs"])
def test_a_sampled_ensemble_follows_the_mean(space):
    rows = 40_000
    blocks, p, q = sampled_blocks(rows)
    verification = Ensemble(0.3, space).verify(blocks)
    first = torch.where(verification.accepted > 0, blocks.drafted[:, 0], verification.next_token)
    mean = (
        0.7 * p[0] + 0.3 * q[0]
        if space == "logprobs"
        else (0.7 * p[0].exp() + 0.3 * q[0].exp()).log()
    )
    expected = mean.softmax(-1) * rows
    seen = torch.bincount(first, minlength=4).float()
    chi_square = float(((seen - expected) ** 2 / expected).sum())
    assert chi_square < 21.1  # 3 degrees of freedom, p = 1e-4
    # The power of this test: neither model alone passes it.
    for other in (p[0], q[0]):
        wrong = other.softmax(-1) * rows
        assert float(((seen - wrong) ** 2 / wrong).sum()) > 100


@pytest.mark.parametrize(("cost", "whose"), [(-1.0, 0), (2.0, 1)])
def test_a_sampled_speculative_cascade_follows_the_model_that_answers(cost, whose):
    rows = 40_000
    blocks, p, q = sampled_blocks(rows)
    verification = SpeculativeCascade("difference", cost).verify(blocks)
    first = torch.where(verification.accepted > 0, blocks.drafted[:, 0], verification.next_token)
    seen = torch.bincount(first, minlength=4).float()
    fits, other = (model[0].exp() * rows for model in ((p, q), (q, p))[whose])
    assert float(((seen - fits) ** 2 / fits).sum()) < 21.1
    assert float(((seen - other) ** 2 / other).sum()) > 100


def test_a_sampled_arbitration_that_accepts_no_mismatch_is_the_exact_rule():
    rows = 40_000
    blocks, p, _ = sampled_blocks(rows)
    verification = Confident(2.0).verify(blocks)
    first = torch.where(verification.accepted > 0, blocks.drafted[:, 0], verification.next_token)
    expected = p[0].exp() * rows
    seen = torch.bincount(first, minlength=4).float()
    assert float(((seen - expected) ** 2 / expected).sum()) < 21.1


@pytest.mark.parametrize("statistic", ["mean", "min"])
def test_a_cascade_accepts_the_draft_s_answer_or_writes_the_target_s(models, statistic):
    target, draft = models
    prompt = PROMPTS[0]
    with torch.inference_mode():
        answer = greedy(draft, prompt, COUNT)
        logits = draft(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    own = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
    value = float(own.mean() if statistic == "mean" else own.min())
    for shift, expected in ((-0.01, answer), (0.01, greedy(target, prompt, COUNT))):
        policy = Cascade(math.exp(value + shift), statistic)
        machine = engine(target, draft)
        item = request(prompt, policy, limits(4), program=lambda s, p: cascade(s, p, Exact()))
        assert run(machine, [item]) == [expected]
        counters = item.sequence.counters
        assert counters.emitted_tokens == COUNT
        # What the draft wrote in vain is counted too.
        assert counters.draft_passes >= COUNT
        assert (counters.target_passes == 0) == (shift < 0)
        assert machine.busy is False


def test_a_sampled_cascade_does_not_depend_on_its_batch(models):
    sampling = SamplingParams(temperature=1.0)

    def requests(indices):
        return [
            request(
                PROMPTS[i % 3],
                Cascade(0.2),
                limits(4),
                seeded(sampling, i),
                program=lambda s, p: cascade(s, p, Exact()),
            )
            for i in indices
        ]

    alone = [run(engine(*models), requests([i]))[0] for i in range(5)]
    assert run(engine(*models, rows=10), requests(range(5))) == alone


def test_the_draft_alone_records_its_probabilities(models):
    machine = engine(*models)
    asked = Limits(max_new_tokens=10, probabilities=True)
    item = request(PROMPTS[0], Exact(), asked, program=lambda s, _: drafting(s))
    (answer,) = run(machine, [item])
    with torch.inference_mode():
        logits = models[1](torch.tensor([PROMPTS[0] + answer])).logits[0]
    own = logits.softmax(-1)[len(PROMPTS[0]) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
    assert [e.p_draft for e in item.sequence.emitted] == pytest.approx(own[:, 0].tolist(), abs=1e-5)
    assert [e.p_target for e in item.sequence.emitted] == [None] * 10


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("ensemble", {"weight": 1.5}, "weight is 1.5"),
        ("ensemble", {"space": "logits"}, "choose from logprobs, probs"),
        ("speculative-cascade", {"rule": "token"}, "choose from chow, difference, optimal"),
        ("speculative-cascade", {"cost": math.inf}, "cost is inf"),
        ("cascade", {"threshold": -0.1}, "threshold is -0.1"),
        ("cascade", {"statistic": "median"}, "choose from mean, min"),
        ("confident", {"weight": 1}, "it has: margin"),
    ],
)
def test_parameters_out_of_range_are_refused(name, parameters, sentence):
    with pytest.raises(OptionError, match=sentence):
        resolve(name, parameters)
