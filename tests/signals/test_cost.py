"""Limits on what signals cost: no word, nothing of the target's work, no more than is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from families import VOCAB, build
from stet.core import block
from stet.core.limits import Limits
from stet.core.sampling import SamplingParams
from stet.engine import attention_capture, drafting
from stet.engine.engine import Engine
from stet.engine.runner import Runner
from stet.policies import Exact, SpecGuard
from stet.programs import LocalTarget, stepwise
from stet.signals import SIGNALS

pytestmark = pytest.mark.unit

ENDS = tuple("adgjmpsvy")
NOTHING = ("agreement",)
"""A signal that needs nothing of the draft."""

EVERY = tuple(SIGNALS)
SAMPLED = {"candidates": 3, "temperature": 2.0, "top_p": 0.9, "selector": "first"}
PROMPTS = [
    torch.randint(3, VOCAB, (n,), generator=torch.Generator().manual_seed(n)).tolist()
    for n in (1, 17, 6)
]


def policy(signals: tuple[str, ...], accepted: bool, **changes: Any) -> SpecGuard:
    """A policy that accepts every step, or has the target write every step."""
    changes = {"threshold": 0.0, "whole": True} | changes
    return SpecGuard(signals=signals, delimiter=ENDS, shadow=not accepted, **changes)


def machine() -> Engine:
    return tiny.engine(build("qwen3", seed=9), build("qwen3"), rows=16, max_length=200)


def answers(engine: Engine, policies: list[SpecGuard]) -> list[list[int]]:
    """Answers to all prompts at a time, each with a policy of its own."""
    requests = [
        tiny.request(
            prompt,
            policy,
            Limits(max_new_tokens=30, chunk=5),
            SamplingParams(seed=place),
            program=lambda sequence, policy: stepwise(sequence, policy, LocalTarget(Exact())),
            decoder=tiny.Letters(),
        )
        for place, (prompt, policy) in enumerate(zip(PROMPTS, policies, strict=True))
    ]
    for item, of in zip(requests, policies, strict=True):
        item.rows = of.candidates + 1
    return tiny.run(engine, requests)


@pytest.mark.parametrize("changes", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "rewritten"])
def test_no_word_depends_on_what_is_measured(changes: dict[str, Any], accepted: bool) -> None:
    """With all signals, with none, and with a different set in each request of a batch."""
    without, every, some = (
        policy(signals, accepted, **changes)
        for signals in (NOTHING, EVERY, ("min_margin", "grounding_mean"))
    )
    wanted = answers(machine(), [without] * 3)
    assert all(wanted)
    assert answers(machine(), [every] * 3) == wanted
    assert answers(machine(), [some, without, every]) == wanted
    alone = [answers_alone(place, of) for place, of in enumerate((every, some, without))]
    assert alone == wanted


def answers_alone(place: int, of: SpecGuard) -> list[int]:
    request = tiny.request(
        PROMPTS[place],
        of,
        Limits(max_new_tokens=30, chunk=5),
        SamplingParams(seed=place),
        program=lambda sequence, policy: stepwise(sequence, policy, LocalTarget(Exact())),
        decoder=tiny.Letters(),
    )
    request.rows = of.candidates + 1
    return tiny.run(machine(), [request])[0]


class Operations(TorchDispatchMode):
    """The names of the operations that reach the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def work_of_the_target(signals: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    engine, seen = machine(), Operations()
    forward = Runner.forward

    def counting(self: Runner, *arguments: Any, **more: Any) -> Any:
        if self is not engine.runners["target"]:
            return forward(self, *arguments, **more)
        assert more.get("recorder") is None
        with seen:
            return forward(self, *arguments, **more)

    monkeypatch.setattr(Runner, "forward", counting)
    answers(engine, [policy(signals, accepted=False)] * 3)
    monkeypatch.setattr(Runner, "forward", forward)
    return seen.names


def test_the_target_does_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    without = work_of_the_target(NOTHING, monkeypatch)
    assert len(without) > 1000
    assert work_of_the_target(EVERY, monkeypatch) == without


def test_nothing_is_computed_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: set[str] = set()

    def capture(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def noted(*arguments: Any) -> Any:
            computed.add(name)
            return function(*arguments)

        monkeypatch.setattr(owner, name, noted)

    for name in ("_logprobs", "_entropies", "_margins"):
        capture(block, name)
    capture(attention_capture.AttentionWeights, "attention")
    capture(attention_capture.Recorder, "add")
    attention = {"attention", "add"}
    for signals, wanted in (
        (NOTHING, set()),
        (SpecGuard().signals, {"_logprobs"}),
        (SpecGuard.paper().signals, {"_logprobs", *attention}),
        (("max_entropy",), {"_entropies"}),
        (("min_margin", "mean_entropy"), {"_margins", "_entropies"}),
        (("grounding_mean",), attention),
        (EVERY, {"_logprobs", "_entropies", "_margins", *attention}),
    ):
        computed.clear()
        answers(machine(), [policy(signals, accepted=True)] * 3)
        assert computed == wanted, signals


def test_log_probabilities_known_while_drafting_are_not_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a threshold every token is looked at, as the rest of a hopeless step is not written."""
    found: list[list[float]] = []
    signal = SIGNALS["sum_logprob"]

    def measure(candidates: Any) -> list[float]:
        found.extend(c.statistics.logprobs for c in candidates)
        return signal.measure(candidates)

    monkeypatch.setitem(SIGNALS, "sum_logprob", replace(signal, measure=measure))
    texts, numbers = [], []
    for whole in (True, False):
        of = policy(("sum_logprob",), accepted=True, threshold=1e-30, whole=whole)
        texts.append(answers(machine(), [of] * 3))
        numbers.append(list(found))
        found.clear()
        monkeypatch.setattr(block, "_logprobs", None)
    assert texts[0] == texts[1]
    assert len(numbers[0]) > 3
    for known, computed in zip(*numbers, strict=True):
        assert known == pytest.approx(computed, abs=1e-6)


def test_a_stretch_leaves_nothing_behind_for_the_next() -> None:
    """Queries are let go of, also those of a stretch that failed on its way."""
    engine = machine()
    answers(engine, [policy(("grounding",), accepted=True)] * 3)
    assert isinstance(engine.drafter, drafting.ModelDrafter)
    (recorder,) = engine.drafter._attention_weights._recorders.values()
    assert recorder.count == 3
    assert not recorder.queries
    recorder.queries.append(torch.zeros(1))
    wanted = answers(machine(), [policy(("grounding",), accepted=True)] * 3)
    assert answers(engine, [policy(("grounding",), accepted=True)] * 3) == wanted
    assert not recorder.queries
