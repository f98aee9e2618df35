"""The check of the bound on risk: runs followed from one threshold to the next, and re-splits."""

import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """The modules of the benchmark, which are no package."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        import _risk_pool
        import _risk_splits

        yield _risk_pool, _risk_splits
    finally:
        sys.path.remove(str(SCRIPTS))


def test_a_run_is_followed_as_far_as_both_thresholds_write_the_same(scripts):
    pool, _ = scripts
    same = pool.Taken(0, (1, 2), (1, 2), 0.5, False)
    accepted = pool.Taken(2, (3,), (3,), 0.9, True)
    other = pool.Taken(3, (4, 5), (6,), 0.4, False)
    last = pool.Taken(5, (0,), (0,), 0.95, True)
    walk = pool.Walk((same, accepted, other, last), "stop")

    lower = pool.follow(walk, 0.6)  # decides as the stricter one did
    assert lower == walk
    middle = pool.follow(walk, 0.45)  # accepts a step that says what the target wrote
    assert middle.tokens == walk.tokens
    assert [s.accepted for s in middle.steps] == [True, True, False, True]
    assert middle.finish == "stop"
    low = pool.follow(walk, 0.4)  # goes on alone after the draft's own words
    assert low.finish == "parted"
    assert low.tokens == (1, 2, 3, 6)
    assert [s.accepted for s in low.steps] == [True, True, True]


def test_an_outcome_counts_what_is_accepted_after_an_error(scripts):
    pool, _ = scripts
    steps = [pool.Taken(i, (i,), (i,), 0.5, k) for i, k in enumerate([True, True, False, True])]
    walk = pool.Walk(tuple(steps), "stop")
    assert pool._outcome(walk, False, 1) == pool.Outcome(False, True, 4, 3, 2)
    assert pool._outcome(walk, False, 2) == pool.Outcome(False, False, 4, 3, 1)
    assert pool._outcome(walk, False, None) == pool.Outcome(False, False, 4, 3, 0)


def test_what_a_crash_cut_short_is_solved_again(scripts, tmp_path):
    pool, _ = scripts
    path = tmp_path / "pool.jsonl"
    path.write_text('{"problem": "a"}\n{"problem": "b", "outc')
    assert pool.read(path) == [{"problem": "a"}]
    assert path.read_text() == '{"problem": "a"}\n'
    assert pool.read(tmp_path / "none.jsonl") == []


def made_up(risks, *, steps=5, count=4000):
    """A pool [N, K, 5] in which lost problems have all their accepted steps on the error."""
    generator = np.random.default_rng(1)
    lost = generator.random(count)[:, None] < np.array(risks)
    kept = np.broadcast_to(np.arange(len(risks), 0, -1), lost.shape)
    shape = np.full(lost.shape, steps)
    return np.stack([~lost, lost, shape, kept, lost * kept], axis=2).astype(np.int64)


def test_resplits_tell_a_bound_that_holds_from_ways_that_do_not(scripts):
    _, splits = scripts
    pool, grid = made_up([0.12, 0.102, 0.07, 0.02]), [0.2, 0.4, 0.6, 0.8]
    rows = splits.violations(pool, grid, 300, [(0.1, 0.1)], 600, seed=0)
    by = {row["method"]: row for row in rows}
    assert by["product"]["rate"] <= 0.1
    assert by["untested"]["rate"] > 0.3
    assert by["uncorrected"]["violations"] >= by["product"]["violations"]
    assert by["product"]["chosen"] > 500
    for row in rows:
        assert row["rate_low"] <= row["rate"] <= row["rate_high"]
    # Steps of a problem go wrong together: taken as independent they promise too much.
    step_share = pool.sum(0)[:, splits.TAINTED] / pool.sum(0)[:, splits.KEPT]
    alpha = float(step_share[1]) - 1e-3
    rows = splits.violations(pool, grid, 300, [(alpha, 0.1)], 600, seed=0)
    (stepwise,) = [row for row in rows if row["method"] == "per_step"]
    (product,) = [row for row in rows if row["method"] == "product"]
    assert stepwise["own_rate"] > 2 * product["rate"]


def test_the_product_chooses_by_its_own_functions(scripts, monkeypatch):
    _, splits = scripts
    pool, grid = made_up([0.12, 0.1, 0.05, 0.0]), [0.2, 0.4, 0.6, 0.8]
    (draw,) = splits.draws(pool, 300, 1, seed=4)
    assert (draw.drawn + draw.rest == pool.sum(0)).all()
    place = splits.product(draw, grid, 0.1, 0.1)
    points = [
        splits.ThresholdPoint(t, 300, 0, 1.0, c[splits.KEPT] / c[splits.STEPS], int(c[splits.LOST]))
        for t, c in zip(grid, draw.drawn, strict=True)
    ]
    chosen = splits.choose(splits.with_bounds(points, 0.1), splits.Wish("risk", 0.1, 0.1))
    assert grid[place] == chosen.threshold
    assert splits.product(draw, grid, 1e-6, 0.1) is None


@pytest.mark.slow
def test_followed_runs_are_what_runs_by_themselves_are(scripts):
    """On the bundled pair, with a policy that cuts steps short once they must be rejected."""
    from dataclasses import replace

    from stet.evaluation.tasks import load_task
    from stet.load import load_pair
    from stet.policies import SpecGuard

    pool, _ = scripts
    task = load_task("stories", split="calibration", count=12, seed=5)
    pair = load_pair(compile=False, max_batch=12)
    policy = replace(SpecGuard.bundled(), lower=None)
    found = pool.Pool(pair, task, policy, [0.3, 0.4, 0.9], 12)
    assert found.unlike(task.questions) == 0
