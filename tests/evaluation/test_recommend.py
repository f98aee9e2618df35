"""Every branch of the recommendation, on made-up reports, as the sentences a reader gets."""

import math

import pytest

from stet.evaluation.recommend import recommend
from stet.evaluation.summary import (
    Estimate,
    PairedDifference,
    PolicySummary,
    Speed,
    Summary,
    Work,
)

WORK = Work(100, 50, 100, 0.5, 50, 50, 80, 0.6, 2.0, [0.7, 0.5])


def speed(latency, throughput=None):
    throughput = latency if throughput is None else throughput
    return Speed(1.0, 1.0, 1.5, 100.0, latency, throughput, None, 0.5, 0.4, 0.1)


def around(value, half=0.05):
    return Estimate(value, value - half, value + half)


def policy(
    label,
    times=None,
    *,
    lossless=False,
    primary=False,
    gain=None,
    p=None,
    gained=9,
    lost=9,
    detectable=0.041,
    same=1.0,
    throughput=None,
    graded=True,
):
    """A policy; `gain` is (value, low, high) in points."""
    difference = None
    if gain is not None:
        value, low, high = (None if x is None else x / 100 for x in gain)
        difference = PairedDifference(
            Estimate(value, low, high), [gained], [lost], [p or 0.5], p, detectable
        )
    latency = Estimate(1.0) if times is None else times
    return PolicySummary(
        label=label,
        name=label,
        parameters={},
        lossless=lossless,
        is_reference=times is None,
        is_primary=primary,
        answers=300,
        failed=0,
        accuracy=Estimate(0.8, 0.75, 0.84) if graded else None,
        difference=difference,
        same_text=Estimate(same),
        same_answer=None,
        speed=speed(latency, throughput),
        work=WORK,
    )


def report(*policies, batch=1, complete=True, seeds=(0,), graded=True):
    reference = policy("target", lossless=True, graded=graded)
    return Summary(
        "sums", 300, list(seeds), batch, "target", "big", "small", [reference, *policies],
        complete, None, "", [], {}, {}, "", "",
    )  # fmt: skip


EXACT = policy("exact", around(1.6), lossless=True, gain=(0, -1.3, 1.3))
BETTER = policy("cospec", around(1.5), primary=True, gain=(3.1, 1.2, 5.0), p=0.004)
AS_GOOD = policy("cospec", around(2.1), primary=True, gain=(0.3, -1.6, 2.3), p=0.71)
WORSE = policy("eager", around(2.9), primary=True, gain=(-4.0, -6.1, -2.0), p=0.0004)
UNSURE = policy("eager", around(2.9), primary=True, gain=(-0.7, -3.1, 1.7), p=0.61)
MAJORITY = policy("majority", around(0.22, 0.01), primary=True, gain=(6.0, 3.5, 8.4), p=0.00002)


def test_the_fastest_lossless_policy():
    other = policy("block", around(1.8), lossless=True)
    assert recommend(report(EXACT, other)) == (
        "Use block: it answered 1.80 times as fast as target (95 % interval 1.75 to 1.85). "
        "It is lossless, the fastest of 2 such policies that were faster. "
        "All 300 texts were identical to the reference's."
    )


@pytest.mark.parametrize(
    ("same", "words"), [(299 / 300, "1 of 300 texts was not"), (0.5, "150 of 300 texts were not")]
)
def test_a_lossless_policy_whose_text_was_not_identical(same, words):
    text = recommend(report(policy("exact", around(1.6), lossless=True, same=same)))
    assert "It is lossless." in text
    assert (
        f"{words} identical to the reference's, which is expected when sampling; in greedy "
        "decoding rounding in half precision causes it, and `stet doctor` says" in text
    )


def test_lossless_policies_are_judged_on_speed_alone():
    # A chance difference that a bootstrap took for real, not declared beforehand.
    chance = policy("exact", around(1.6), lossless=True, gain=(-3.0, -5.0, -1.0))
    text = recommend(report(chance))
    assert text.startswith("Use exact")
    assert "accurate" not in text


def test_a_lossless_policy_that_loses_answers_is_broken():
    broken = policy(
        "exact", around(1.6), lossless=True, primary=True, gain=(-3.0, -5.0, -1.0), p=0.003
    )
    text = recommend(report(broken))
    assert text.startswith("Do not use speculation here")
    assert text.endswith(
        "exact is declared lossless, but was less accurate by 3.0 points (95 % interval 1.0 to "
        "5.0, McNemar's p = 0.003): do not use it before that is understood."
    )


def test_a_lossy_policy_that_is_better_and_faster():
    slower = policy("exact", around(1.2), lossless=True)
    assert recommend(report(slower, BETTER)) == (
        "Use cospec: it answered 1.50 times as fast as target (95 % interval 1.45 to 1.55). "
        "It was also more accurate, by 3.1 points (95 % interval 1.2 to 5.0, McNemar's p = 0.004)."
    )


def test_a_better_policy_names_the_faster_lossless_one():
    text = recommend(report(EXACT, BETTER))
    assert text.startswith("Use cospec")
    assert text.endswith(
        "If speed matters more, exact is lossless and was 1.60 times as fast (1.55 to 1.65)."
    )


def test_the_better_of_two():
    second = policy("blend", around(2.4), primary=True, gain=(2.0, 0.4, 3.9), p=0.02)
    text = recommend(report(BETTER, second))
    assert text.startswith("Use cospec")
    assert "Holm-corrected p = 0.004" in text


def test_a_better_policy_names_one_that_is_as_good_as_the_reference_and_faster():
    quick = policy("quick", around(2.1), primary=True, gain=(0.3, -1.6, 2.3), p=0.71)
    text = recommend(report(BETTER, quick))
    assert text.endswith(
        "quick was 2.10 times as fast (2.05 to 2.15), and no less accurate than the reference "
        "(+0.3 points, interval -1.6 to +2.3)."
    )


def test_a_lossy_policy_that_is_as_good_and_clearly_faster():
    assert recommend(report(EXACT, AS_GOOD)) == (
        "Use cospec: it answered 2.10 times as fast as target (95 % interval 2.05 to 2.15). "
        "No difference in accuracy could be shown (McNemar's p = 0.71): with 300 questions a "
        "difference below 4.1 points would probably go unnoticed. "
        "It counts as no less accurate because the interval of the difference (-1.6 to +2.3 "
        "points) stays above the accepted loss of 2 points. "
        "The fastest lossless policy, exact, was 1.60 times as fast (1.55 to 1.65)."
    )


def test_the_margin_is_the_readers():
    text = recommend(report(EXACT, AS_GOOD), margin=0.015)
    assert text.startswith("Use exact")
    assert "not shown to stay within 1.5 points" in text
    assert recommend(report(EXACT, UNSURE), margin=0.035).startswith("Use eager")


def test_no_grade_differed():
    same = policy(
        "cospec", around(2.1), primary=True, gain=(0, -1.3, 1.3), p=1.0, gained=0, lost=0,
        detectable=None,
    )  # fmt: skip
    text = recommend(report(same))
    assert "Not one grade differed from the reference's." in text
    assert "unnoticed" not in text


def test_nothing_detectable_is_not_claimed():
    few = policy("cospec", around(2.1), primary=True, gain=(0, -1, 1), p=1.0, detectable=None)
    text = recommend(report(few))
    assert "could be shown (McNemar's p = 1.00)." in text


def test_as_good_but_not_clearly_faster_than_the_lossless_one():
    close = policy("cospec", around(1.68), primary=True, gain=(0.3, -1.6, 2.3), p=0.71)
    text = recommend(report(EXACT, close))
    assert text.startswith("Use exact")
    assert text.endswith(
        "cospec was 1.68 times as fast (1.63 to 1.73), which is not clearly faster than a lossless "
        "policy."
    )


def test_within_the_margin_but_significantly_worse():
    worse = policy("cospec", around(2.1), primary=True, gain=(-1.0, -1.8, -0.2), p=0.01)
    text = recommend(report(EXACT, worse))
    assert text.startswith("Use exact")
    assert "but less accurate by 1.0 points (95 % interval 0.2 to 1.8, McNemar's p = 0.010)" in text


def test_a_faster_policy_that_loses_answers_is_named():
    text = recommend(report(EXACT, WORSE))
    assert text.startswith("Use exact")
    assert text.endswith(
        "eager was 2.90 times as fast (2.85 to 2.95), but less accurate by 4.0 points (95 % "
        "interval 2.0 to 6.1, McNemar's p < 0.001)."
    )


def test_a_faster_policy_of_which_too_little_is_known_is_named():
    text = recommend(report(EXACT, UNSURE))
    assert text.startswith("Use exact")
    assert (
        "eager was 2.90 times as fast (2.85 to 2.95), but it was not shown to stay within 2 points "
        "of the reference's accuracy (difference -0.7 points, interval -3.1 to +1.7). No "
        "difference in accuracy could be shown (McNemar's p = 0.61): with 300 questions" in text
    )


def test_a_difference_without_an_interval_shows_nothing():
    few = policy("eager", around(2.9), primary=True, gain=(0, None, None), p=1.0)
    text = recommend(report(EXACT, few))
    assert text.startswith("Use exact")
    assert "(difference +0.0 points)" in text


def test_a_dearer_policy_is_a_trade_off():
    text = recommend(report(EXACT, MAJORITY))
    assert text.startswith("Use exact")
    assert text.endswith(
        "If right answers matter more than speed, majority was more accurate by 6.0 points (95 % "
        "interval 3.5 to 8.4, McNemar's p < 0.001), at 0.22 times the speed (0.21 to 0.23)."
    )


def test_a_dearer_policy_beside_a_better_one():
    assert "majority was more accurate by 6.0 points" in recommend(report(BETTER, MAJORITY))
    less = policy("majority", around(0.2), primary=True, gain=(2.5, 1.0, 4.0), p=0.01)
    assert "majority" not in recommend(report(BETTER, less))


def test_nothing_was_faster():
    slow = policy("exact", around(0.94), lossless=True)
    assert recommend(report(slow)) == (
        "Do not use speculation here: nothing was shown to be faster than target. The fastest "
        "policy, exact, was 0.94 times as fast (0.89 to 0.99)."
    )


def test_an_interval_that_holds_one_is_not_faster():
    text = recommend(report(policy("exact", around(1.04, 0.05), lossless=True)))
    assert text.startswith("Do not use speculation here: nothing was shown to be faster")


def test_only_what_loses_answers_was_faster():
    slow = policy("exact", around(0.94), lossless=True)
    text = recommend(report(slow, WORSE))
    assert text.startswith(
        "Do not use speculation here: nothing that was shown to be faster than target can be "
        "recommended. The fastest lossless policy, exact, was 0.94 times as fast (0.89 to 0.99). "
        "eager was 2.90 times as fast"
    )


def test_nothing_faster_but_something_better():
    text = recommend(report(policy("exact", around(0.94), lossless=True), MAJORITY))
    assert text.startswith("Do not use speculation here")
    assert "If right answers matter more than speed, majority" in text


@pytest.mark.parametrize(
    ("undeclared", "words"),
    [
        (
            policy("cospec", around(1.5), gain=(3.1, 1.2, 5.0)),
            "cospec was 1.50 times as fast (1.45 to 1.55), with a difference in accuracy of +3.1 "
            "points, interval +1.2 to +5.0",
        ),
        (
            policy("cospec", around(2.1), gain=(0.3, -1.6, 2.3)),
            "cospec was 2.10 times as fast (2.05 to 2.15), with a difference in accuracy of +0.3 "
            "points, interval -1.6 to +2.3",
        ),
    ],
)
def test_what_was_not_declared_beforehand_is_exploratory(undeclared, words):
    text = recommend(report(EXACT, undeclared))
    assert text.startswith("Use exact")
    assert text.endswith(
        f"Exploratory, as it was not declared beforehand: {words}; confirm it in a run that "
        "declares it."
    )


def test_an_undeclared_policy_without_promise_is_not_mentioned():
    draft = policy("draft", around(3.0), gain=(-30, -36, -24))
    slow = policy("slow", around(1.1), gain=(0.3, -1.6, 2.3))
    assert "Exploratory" not in recommend(report(EXACT, draft, slow))


def test_throughput_counts_where_questions_are_answered_side_by_side():
    exact = policy("exact", around(1.6), lossless=True, throughput=around(0.9))
    block = policy("block", around(1.4), lossless=True, throughput=around(1.2))
    assert recommend(report(exact, block, batch=16)).startswith(
        "Use block: with 16 questions at a time its throughput was 1.20 times that of target (95 % "
        "interval 1.15 to 1.25)."
    )
    assert recommend(report(exact, block, batch=1)).startswith("Use exact")


def test_latency_counts_where_throughput_has_no_interval():
    exact = policy("exact", around(1.6), lossless=True, throughput=Estimate(0.9))
    assert recommend(report(exact, batch=16)).startswith("Use exact: it answered 1.60 times")


@pytest.mark.parametrize("value", [1.8, math.nan])
def test_too_few_questions(value):
    text = recommend(report(policy("exact", Estimate(value), lossless=True)))
    assert text == (
        "Nothing can be recommended: there are too few questions for an interval of any speed-up."
    )


def test_an_incomplete_run_says_so_first():
    text = recommend(report(EXACT, complete=False))
    assert text.startswith(
        "This run is incomplete, and what follows may change when it is finished. Use exact"
    )


def test_without_a_grader_only_speed_is_judged():
    exact = policy("exact", around(1.6), lossless=True, graded=False)
    lossy = policy("cospec", around(2.9), primary=True, graded=False)
    text = recommend(report(exact, lossy, graded=False))
    assert text.startswith("Use exact")
    assert "cospec" not in text
    assert text.endswith(
        "Without a grader accuracy is not known, so only lossless policies are compared."
    )


def test_the_reference_alone():
    assert recommend(report()) == "Nothing was compared with target."


def test_small_losses_are_not_negative_zero():
    even = policy("cospec", around(2.1), primary=True, gain=(-0.01, -1.5, 0.0), p=0.71)
    close = policy("other", around(2.4), primary=True, gain=(-0.01, -2.5, 0.0), p=0.71)
    text = recommend(report(even, close))
    assert "-0.0" not in text
    assert "(-1.5 to +0.0 points)" in text
    assert "(difference +0.0 points, interval -2.5 to +0.0)" in text


def test_several_seeds_are_not_more_questions():
    text = recommend(report(AS_GOOD, seeds=(0, 1, 2)))
    assert "with 100 questions" in text
