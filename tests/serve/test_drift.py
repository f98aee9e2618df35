"""Drift: requests like those of the calibration are at peace, others give one warning."""

import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from served import MODEL, PROMPT, serving
from stet import load_pair
from stet.bundled import SPECGUARD, generate
from stet.core.result import Result
from stet.pair import Pair
from stet.policies import AutoJudge, CoSpec, Policy, SpecGuard, resolve
from stet.serve import drift
from stet.serve.drift import Drift
from stet.serve.logs import Log
from stet.serve.policies import Offer
from stet.serve.settings import ServeSettings

COUNT = 60
"""Answers after which drift says something: older ones count in part."""


class Watched:
    """A drift without a server around it."""

    def __init__(self, *policies: tuple[str, Policy | str]) -> None:
        self.lines = io.StringIO()
        self.offers = {name: Offer(name, policy) for name, policy in policies}
        self.drift = Drift(self.offers.values(), Log(self.lines), {"model_name": "m"})

    def ended(self, name: str, results: Sequence[Result], policy: Policy | None = None) -> None:
        offer = self.offers[name]
        for result in results:
            self.drift.ended(offer, policy or offer.policy, result)

    @property
    def warnings(self) -> list[dict]:
        return [json.loads(line) for line in self.lines.getvalue().splitlines()]

    def value(self, name: str, **labels: str) -> float | None:
        registry = CollectorRegistry()
        registry.register(self.drift)
        return registry.get_sample_value(name, {"model_name": "m", **labels})


def problems(count: int, family: str = "stories", seed: int = 9) -> list[str]:
    return [problem.prompt for problem in generate(family, "test", count, seed)]


def garbled(prompts: Sequence[str]) -> list[str]:
    """The words of the problems in any order."""
    rng = random.Random(0)
    found = []
    for prompt in prompts:
        head, *words = prompt.removesuffix("\nSolution:\n").split(" ")
        found.append(" ".join([head, *rng.sample(words, len(words))]) + "\nSolution:\n")
    return found


def answers(pair, policy: Policy, prompts: Sequence[str], **options) -> list[Result]:
    return pair.generate(prompts, policy, max_new_tokens=160, fit=True, **options)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with load_pair(max_batch=16, compile=False, profile=False) as pair:
        yield pair


@pytest.fixture(scope="module")
def steps(pair) -> list[Result]:
    return answers(pair, SpecGuard.bundled(), problems(COUNT))


@pytest.fixture(scope="module")
def other_steps(pair) -> list[Result]:
    return answers(pair, SpecGuard.bundled(), garbled(problems(COUNT)))


@pytest.fixture(scope="module")
def mismatches(pair) -> list[Result]:
    return answers(pair, CoSpec(), problems(COUNT))


def test_problems_like_those_of_the_calibration_are_at_peace(steps, mismatches) -> None:
    watched = Watched(("guard", SpecGuard.bundled()), ("arbiter", CoSpec()), ("exact", "target"))
    watched.ended("guard", steps)
    watched.ended("arbiter", mismatches)
    assert watched.warnings == []
    for name, policy in (("guard", SpecGuard.bundled()), ("arbiter", CoSpec())):
        for signal in (*policy.fitted.reference.signals, "accepted"):
            assert watched.value("stet:drift_psi", policy=name, signal=signal) < 0.1
        share = watched.value("stet:drift_accepted_share", policy=name)
        known = watched.value("stet:reference_accepted_share", policy=name)
        error = watched.value("stet:drift_accepted_share_error", policy=name)
        assert known == policy.fitted.reference.accepted
        assert abs(share - known) < 3.5 * error
        assert 0 < error < 0.1
    # Older answers count in part.
    decided = sum(len(result.steps) for result in steps)
    assert 0.8 * decided < watched.value("stet:drift_samples", policy="guard") < decided


def test_others_give_one_warning(pair, steps, other_steps) -> None:
    watched = Watched(("guard", SpecGuard.bundled()))
    watched.ended("guard", other_steps)
    (line,) = watched.warnings
    assert (line["event"], line["policy"]) == ("drift", "guard")
    assert line["psi"] > 0.25
    assert line["accepted_share"] < line["reference_accepted_share"] - 0.2
    assert line["samples"] > 100
    assert "stet calibrate" in line["message"]
    psi = watched.value("stet:drift_psi", policy="guard", signal=line["signal"])
    assert psi == pytest.approx(line["psi"], rel=0.2)
    # As long as it lasts it is not said again, and after it has passed it is.
    for _ in range(3):
        watched.ended("guard", other_steps)
    assert len(watched.warnings) == 1
    for _ in range(30):
        watched.ended("guard", steps)
    assert watched.value("stet:drift_psi", policy="guard", signal=line["signal"]) < 0.1
    assert len(watched.warnings) == 1
    for _ in range(5):
        watched.ended("guard", other_steps)
    assert len(watched.warnings) == 2


def test_an_arbiters_mismatches_drift_with_the_temperature(pair) -> None:
    """A mismatch is another thing when sampling, and the arbiter was trained without."""
    watched = Watched(("arbiter", CoSpec()))
    found = pair.generate(
        problems(100), CoSpec(), max_new_tokens=40, fit=True, temperature=2.0, seed=1
    )
    watched.ended("arbiter", found)
    (line,) = watched.warnings
    assert line["policy"] == "arbiter"
    assert "stet train" in line["message"]


def test_a_shadow_run_counts_likewise(pair, other_steps) -> None:
    shadow = replace(SpecGuard.bundled(), shadow=True)
    watched = Watched(("guard", shadow))
    found = answers(pair, shadow, garbled(problems(12)))
    assert any(step.decision == "accepted" for result in found for step in result.steps)
    watched.ended("guard", found)
    decided = sum(len(result.steps) for result in found)
    samples = watched.value("stet:drift_samples", policy="guard")
    assert decided * 0.95 < samples < decided
    # The same decisions are the same drift, whoever wrote the text.
    watched.ended("guard", other_steps)
    assert len(watched.warnings) == 1


@pytest.mark.slow
@pytest.mark.parametrize("policy", [SpecGuard.bundled(), CoSpec(), AutoJudge()])
def test_at_peace_for_long(pair, policy) -> None:
    """With hundreds of answers chance is less, and so is what is allowed."""
    watched = Watched(("long", policy))
    watched.ended("long", answers(pair, policy, problems(300)))
    assert watched.warnings == []
    for signal in (*policy.fitted.reference.signals, "accepted"):
        assert watched.value("stet:drift_psi", policy="long", signal=signal) < 0.05


def test_few_answers_say_nothing(other_steps) -> None:
    watched = Watched(("guard", SpecGuard.bundled()))
    watched.ended("guard", other_steps[: int(drift.LEAST) - 1])
    assert watched.warnings == []
    assert watched.value("stet:drift_psi", policy="guard", signal="score") is None
    assert watched.value("stet:drift_accepted_share", policy="guard") is None
    assert watched.value("stet:reference_accepted_share", policy="guard") is not None


def test_other_parameters_of_a_request_count_where_they_may(steps) -> None:
    guard = SpecGuard.bundled()
    samples = {}
    for name, changes in (
        ("same", {"shadow": True}),
        ("threshold", {"threshold": 0.9}),
        ("candidates", {"candidates": 2, "temperature": 1.0}),
    ):
        watched = Watched(("guard", guard))
        watched.ended("guard", steps, watched.offers["guard"].with_parameters(changes))
        samples[name] = watched.value("stet:drift_samples", policy="guard")
        shown = watched.value("stet:drift_accepted_share", policy="guard") is not None
        assert shown == (name == "same")
    assert samples["same"] == samples["threshold"] > 0
    assert samples["candidates"] == 0


def test_of_files_of_before_the_share_is_compared(tmp_path, steps, other_steps) -> None:
    record = json.loads(SPECGUARD.read_text())
    del record["reference"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(record))
    watched = Watched(("guard", resolve(str(path))))
    watched.ended("guard", steps)
    assert watched.warnings == []
    assert watched.value("stet:drift_psi", policy="guard", signal="score") is None
    watched = Watched(("guard", resolve(str(path))))
    watched.ended("guard", other_steps)
    (line,) = watched.warnings
    assert line["signal"] == "accepted"


def test_the_gauges_as_text(steps) -> None:
    watched = Watched(("guard", SpecGuard.bundled()))
    watched.ended("guard", steps)
    registry = CollectorRegistry()
    registry.register(watched.drift)
    lines = generate_latest(registry).decode().splitlines()
    for name, more in (
        ("drift_psi", ',signal="score"'),
        ("drift_psi", ',signal="accepted"'),
        ("drift_accepted_share", ""),
        ("drift_accepted_share_error", ""),
        ("reference_accepted_share", ""),
        ("drift_samples", ""),
    ):
        start = f'stet:{name}{{model_name="m",policy="guard"{more}}} '
        assert sum(line.startswith(start) for line in lines) == 1
        assert f"# TYPE stet:{name} gauge" in lines


def test_the_server_counts_whole_answers_and_streams(pair) -> None:
    settings = ServeSettings(
        model=MODEL, default="mine", named={"mine": str(SPECGUARD)}, allow=("exact", "cospec")
    )
    with serving(pair, settings) as served:
        body = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 60}
        seen = []
        for policy, stream in (("mine", False), ("mine", True), ("cospec", True), ("exact", True)):
            chosen = body | {"speculation": {"policy": policy}, "stream": stream}
            assert served.post("/v1/completions", chosen).status_code == 200
            text = served.get("/metrics").text
            samples = {
                line.partition('policy="')[2].partition('"')[0]: float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith("stet:drift_samples{")
            }
            assert set(samples) == {"mine", "cospec"}
            seen.append(samples)
        first = seen[0]["mine"]
        assert first == len(pair.generate(PROMPT, str(SPECGUARD), max_new_tokens=60).steps)
        assert seen[1]["mine"] == pytest.approx(2 * first, rel=0.01)
        assert seen[2]["cospec"] > seen[1]["cospec"] == 0
        assert seen[3] == seen[2]
