"""What a policy was fitted on: how it is recorded, read, and compared with what is served."""

import json
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest

from stet.arbiter import Arbiter
from stet.bundled import AUTOJUDGE, COSPEC, SPECGUARD
from stet.core.errors import OptionError
from stet.policies import AutoJudge, CoSpec, SpecGuard, parameters, resolve
from stet.policies.reference import (
    PROBABILITY,
    SCORE,
    Decision,
    Reference,
    Spread,
    fitted_of,
)
from stet.policies.tally import Tally


def answers(count: int, *, alike: float = 0.0, seed: int = 0) -> list[list[float]]:
    """Values of answers of one to nine values; some of what they vary by is an answer's own."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        own, n = rng.normal(), rng.integers(1, 10)
        found.append([*(alike * own + (1 - alike**2) ** 0.5 * rng.normal(size=n)).tolist()])
    return found


def decided(values: list[list[float]], threshold: float = 0.0) -> list[list[Decision]]:
    return [[Decision({SCORE: v, "other": -v}, v >= threshold) for v in a] for a in values]


# Recording


def test_deciles_are_values_and_counts_are_by_them():
    found = answers(200)
    spread = Spread.of(found)
    flat = np.sort(np.concatenate(found))
    for place, decile in enumerate(spread.deciles, 1):
        assert decile == pytest.approx(np.quantile(flat, place / 10), abs=0.03)
    edges = [-np.inf, *spread.deciles, np.inf]
    own = [int(((flat > a) & (flat <= b)).sum()) for a, b in pairwise(edges)]
    assert list(spread.counts) == own
    assert max(own) - min(own) <= 4


def test_many_equal_values_fall_into_one_bin():
    spread = Spread.of([[1.0] * 7, [0.25, 0.5], [1.0]])
    assert spread.deciles == (0.25, 0.5, *[1.0] * 7)
    assert spread.counts == (1, 1, 8, *[0] * 7)


def test_a_reference_counts_decisions():
    values = answers(100)
    found = Reference.of(decided([*values, []]), (SCORE, "absent"))
    flat = np.concatenate(values)
    assert (found.answers, found.decisions) == (101, len(flat))
    assert found.accepted == pytest.approx((flat >= 0).mean())
    assert list(found.signals) == [SCORE]
    assert Reference.read(json.loads(json.dumps(asdict(found))), "here") == found
    assert Reference.of([[], []], (SCORE,)) is None


def test_values_of_an_answer_that_are_alike_are_worth_fewer():
    """Against a bootstrap over answers."""
    edges = (-0.5, 0.5)
    for alike, seed in ((0.0, 1), (0.9, 2)):
        found = answers(400, alike=alike, seed=seed)
        tally = Tally(edges)
        for values in found:
            tally.add(values)
        counts = np.array([np.histogram(v, [-np.inf, *edges, np.inf])[0] for v in found])
        assert tally.counts.tolist() == counts.sum(0).tolist()
        rng = np.random.default_rng(0)
        drawn = counts[rng.integers(0, len(found), (2000, len(found)))].sum(1)
        shares = drawn / drawn.sum(1, keepdims=True)
        share = counts.sum(0) / counts.sum()
        # Rao and Scott: the mean over bins of how much more shares vary than of independent ones.
        worth = (len(share) - 1) / (shares.var(0) / share).sum()
        assert tally.effective == pytest.approx(min(worth, tally.total), rel=0.12)
    assert tally.effective < tally.total / 2


def test_older_answers_count_ever_less():
    tally, plain = Tally((0.5,), memory=20), []
    for place in range(100):
        tally.add([float(place >= 50)] * (1 + place % 3))
        plain.append((place >= 50, 1 + place % 3))
    weights = [n * np.exp(-(99 - place) / 20) for place, (_, n) in enumerate(plain)]
    ones = [w for w, (one, _) in zip(weights, plain, strict=True) if one]
    assert tally.total == pytest.approx(sum(weights))
    assert tally.counts[1] == pytest.approx(sum(ones))
    assert tally.answers == pytest.approx(20, rel=0.05)


def test_what_is_no_number_is_left_out():
    tally = Tally((0.0,))
    tally.add([float("nan"), float("inf"), -float("inf"), 1.0])
    assert tally.counts.tolist() == [0, 1]
    assert tally.effective == 0  # of one answer nothing is known


# Reading


def test_the_shipped_files_have_references():
    record = json.loads(SPECGUARD.read_text())
    found = SpecGuard.bundled().fitted.reference
    assert found.accepted == pytest.approx(record["chosen"]["kept"])
    assert set(found.signals) == {*record["parameters"]["signals"], SCORE}
    for folder, policy in ((COSPEC, CoSpec()), (AUTOJUDGE, AutoJudge())):
        trained = json.loads((folder / "arbiter.json").read_text())["trained"]
        found = fitted_of(policy).reference
        assert found.decisions == trained["validation"]["disputes"]
        assert found.accepted * found.decisions == pytest.approx(trained["validation"]["overruled"])
        assert set(found.signals) == {PROBABILITY}


def test_files_of_before_have_the_share_alone(tmp_path):
    record = json.loads(SPECGUARD.read_text())
    del record["reference"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(record))
    for policy in (SpecGuard.load(path), resolve(str(path)), resolve(str(path), {"shadow": True})):
        found = policy.fitted.reference
        assert found.accepted == record["chosen"]["kept"]
        assert found.effective == record["chosen"]["problems"]
        assert found.signals == {}
    del record["chosen"]
    path.write_text(json.dumps(record))
    assert SpecGuard.load(path).fitted is None
    # A file of another policy has no such thing.
    path.write_text(json.dumps({"policy": "top-k", "parameters": {}, "chosen": {"kept": 1}}))
    assert fitted_of(resolve(str(path))) is None

    arbiter = Arbiter.load(COSPEC)
    trained = dict(arbiter.trained)
    del trained["reference"]
    arbiter.trained = trained
    found = CoSpec(arbiter).fitted.reference
    assert (found.decisions, found.effective, found.signals) == (2455, 400, {})
    assert found.accepted == pytest.approx(2210 / 2455)
    arbiter.trained = {}
    assert CoSpec(arbiter).fitted is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"accepted": 2.0},
        {"accepted": "many"},
        {"signals": {"score": {"deciles": [1, 2], "counts": [1, 2, 3], "effective": 3}}},
        {"signals": {"score": {"deciles": [*range(9, 0, -1)], "counts": [1] * 10, "effective": 3}}},
    ],
)
def test_a_reference_that_is_none_is_refused(tmp_path, wrong):
    record = json.loads(SPECGUARD.read_text())
    record["reference"] |= wrong
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(record))
    with pytest.raises(OptionError, match=r"edited\.json"):
        SpecGuard.load(path)
    with pytest.raises(OptionError, match=r"edited\.json"):
        resolve(str(path))


def test_it_is_no_parameter():
    policy = SpecGuard.bundled()
    assert "fitted" not in parameters(policy)
    assert policy == replace(policy, fitted=None)
    with pytest.raises(OptionError, match="no parameter 'fitted'"):
        resolve("specguard", {"fitted": 1})


# Comparing


@pytest.mark.parametrize(
    ("changes", "comparable"),
    [
        ({}, (True, True)),
        ({"shadow": True}, (True, True)),
        ({"whole": True, "loop_after": 0, "speculate": False}, (True, True)),
        ({"threshold": 0.6}, (True, False)),
        ({"lower": 0.2, "target_threshold": 0.1}, (True, False)),
        ({"overrule": 0.4}, (True, False)),
        # Without a band hopeless steps are broken off, and have numbers of their beginnings.
        ({"lower": None}, (False, False)),
        ({"lower": None, "whole": True}, (True, False)),
        ({"candidates": 4, "temperature": 0.7}, (False, False)),
        ({"scorer": "target"}, (False, False)),
    ],
)
def test_what_may_be_held_against_a_calibration(changes, comparable):
    policy = replace(SpecGuard.bundled(), **changes)
    assert policy.fitted.compare(policy) == comparable
    by_name = resolve("specguard.bundled", changes)
    assert by_name.fitted.compare(by_name) == comparable
    by_file = resolve(str(SPECGUARD), changes)
    assert by_file.fitted.compare(by_file) == comparable


def test_where_steps_are_broken_off_they_are_when_compared():
    """A policy that breaks off, in a shadow run, finishes its steps: only decisions are alike."""
    bundled = SpecGuard.bundled()
    one = {"signals": ("sum_logprob",), "weights": (1.0,), "ranges": ((-4.0, 0.0),)}
    policy = replace(bundled, lower=None, **one)
    fitted = replace(bundled.fitted, parameters=parameters(policy))
    assert fitted.compare(policy) == (True, True)
    assert fitted.compare(replace(policy, shadow=True)) == (False, True)
    assert fitted.compare(replace(policy, threshold=0.6)) == (False, False)


@pytest.mark.parametrize(
    ("changes", "comparable"),
    [
        ({}, (True, True)),
        ({"threshold": 0.5}, (True, True)),
        ({"threshold": 0.7}, (True, False)),
        ({"defers_bonus": False}, (False, False)),
    ],
)
def test_what_may_be_held_against_a_training(changes, comparable):
    policy = CoSpec(**changes)
    assert policy.fitted.compare(policy) == comparable
