"""A report's numbers, on a made-up run and by brute force from its files."""

import json
import math
import random
import statistics as plain
from collections import defaultdict
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from stet.core.errors import OptionError, StetError
from stet.core.trace import Counters
from stet.evaluation import records
from stet.evaluation.analysis import summarise
from stet.evaluation.records import Answer, PolicyEntry, QuestionEntry, Results, Run
from stet.evaluation.summary import Estimate

QUESTIONS, SEEDS, BATCH = 40, [3, 8], 4
POLICIES = {
    # label: lossless, chance to be right, seconds per token, share of tokens the draft writes
    "target": (True, 0.75, 0.010, 0.0),
    "exact": (True, 0.75, 0.006, 0.7),
    "cospec": (False, 0.85, 0.005, 0.8),
    "eager": (False, 0.60, 0.004, 0.9),
    "draft": (False, 0.40, 0.002, 1.0),
    "majority": (False, 0.85, 0.025, 0.0),
}


def a_run(labels=tuple(POLICIES), questions=QUESTIONS, seeds=SEEDS, **changes):
    fields = {
        "task": "sums",
        "questions": [QuestionEntry(f"q{i}", "?", "1", "ab"[i % 2]) for i in range(questions)],
        "policies": [PolicyEntry(x, x, {"n": 1}, POLICIES[x][0]) for x in labels],
        "reference": "target",
        "primary": [x for x in ("cospec", "eager") if x in labels],
        "seeds": list(seeds),
        "batch": BATCH,
        "options": {},
        "target": {"name": "big", "revision": "1"},
        "draft": {"name": "small", "revision": "2"},
        "graded": True,
        "grader": {"name": "number"},
        "note": "Only a test.",
        "machine": {"cpu": "slow"},
        "versions": {"stet": "0"},
        "command": "stet compare",
        "date": "2026-01-01T00:00:00+00:00",
    }
    return Run(**{**fields, **changes})


def an_answer(policy="target", question="q0", seed=3, right=True, seconds=1.0, **changes):
    number = int(question[1:])
    fields = {
        "text": "yes" if right else "no",
        "answer": "1" if right else "0",
        "finish_reason": "stop",
        "error": None,
        "chunk": number // BATCH,
        "chunk_seconds": 4.0 * seconds,
        "chunk_answers": BATCH,
        "prompt_tokens": 5,
        "counters": Counters(emitted_tokens=10, target_passes=10),
    }
    return Answer(policy, question, seed, right=right, seconds=seconds, **{**fields, **changes})


def counters_of(rng, label, tokens):
    """Counters that a real request could have."""
    seconds = tokens * POLICIES[label][2]
    if label == "draft":
        return Counters(emitted_tokens=tokens, draft_passes=tokens, draft_seconds=0.9 * seconds)
    if label in {"target", "majority"}:
        tokens *= 5 if label == "majority" else 1
        return Counters(emitted_tokens=tokens, target_passes=tokens, target_seconds=0.9 * seconds)
    accepted = round(tokens * POLICIES[label][3])
    passes = tokens - accepted
    first = min(accepted, passes)
    return Counters(
        emitted_tokens=tokens,
        drafts=passes,
        drafted_tokens=accepted + passes,
        accepted_tokens=accepted,
        accepted_per_position=[first, accepted - first],
        target_passes=passes,
        draft_passes=accepted + passes,
        target_seconds=0.6 * seconds,
        draft_seconds=0.3 * seconds,
    )


def a_trace(rng, answer, draft_share):
    """A trace that tells another share than the counters do, so the two can be told apart."""
    n = answer.counters.emitted_tokens
    tokens = [
        {"id": 1, "text": "x", "origin": "draft" if rng.random() < draft_share else "target"}
        for _ in range(n)
    ]
    blocks = [
        {
            "position": at,
            "drafted": [1, 1, 1],
            "accepted": 3,
            "accepted_mismatches": [0, 2],
            "next_token": 1,
        }
        for at in (0, 4, n - 2)  # the last block's third token was not emitted
    ]
    steps = [
        {"signals": {"sure": {"raw": rng.gauss(1, 1), "normalised": 0.5}}, "accepted": True},
        {"signals": {"sure": rng.gauss(0, 1)}, "accepted": False},
    ]
    return {"tokens": tokens, "blocks": blocks, "steps": steps, "counters": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A complete run on disk."""
    rng = random.Random(5)
    folder = tmp_path_factory.mktemp("run")
    run = a_run()
    (folder / records.RUN).write_text(json.dumps(asdict(run)))
    answers, traces = [], []
    hard = {q.id: rng.betavariate(1, 1) for q in run.questions}
    lengths = {q.id: rng.randint(20, 60) for q in run.questions}
    for seed in SEEDS:
        texts = {}
        for label, (_, skill, per_token, share) in POLICIES.items():
            for start in range(0, QUESTIONS, BATCH):
                chunk_seconds = rng.uniform(0.5, 1.5) * per_token * 100
                for q in run.questions[start : start + BATCH]:
                    right = rng.random() < (skill + 1 - hard[q.id]) / 2
                    if label == "exact" and rng.random() < 0.9:
                        right, text = texts[q.id]
                    else:
                        text = f"{label} {rng.randint(0, 3)} {right}"
                    if label == "target":
                        texts[q.id] = right, text
                    tokens = lengths[q.id] + rng.randint(0, 9)
                    failed = label == "eager" and q.id in {"q7", "q8"} and seed == 8
                    answer = an_answer(
                        label,
                        q.id,
                        seed,
                        right,
                        seconds=tokens * per_token * rng.uniform(0.9, 1.3),
                        text=text,
                        answer=str(int(right)) if rng.random() < 0.95 else None,
                        finish_reason="length" if rng.random() < 0.05 else "stop",
                        error=f"It broke at {q.id}." if failed else None,
                        chunk=start // BATCH + SEEDS.index(seed) * QUESTIONS // BATCH,
                        chunk_seconds=chunk_seconds,
                        counters=counters_of(rng, label, tokens),
                        signals={"calm": rng.gauss(right, 1), "odd": math.nan}
                        if label in {"cospec", "draft"}
                        else {},
                        samples=5 if label == "majority" else 1,
                    )
                    answers.append(answer.to_json())
                    if label == "cospec":
                        key = {"policy": label, "question": q.id, "seed": seed}
                        traces.append(
                            json.dumps({**key, "trace": a_trace(rng, answer, share - 0.2)})
                        )
    (folder / records.ANSWERS).write_text("".join(line + "\n" for line in answers))
    (folder / records.TRACES).write_text("".join(line + "\n" for line in traces))
    return folder


@pytest.fixture(scope="module")
def summary(folder):
    return summarise(records.read(folder), cost_ratio=8.0)


# By brute force, from the files


@pytest.fixture(scope="module")
def lines(folder):
    rows = [json.loads(line) for line in (folder / records.ANSWERS).read_text().splitlines()]
    table = defaultdict(dict)
    for row in rows:
        row["good"] = bool(row["right"]) and row["error"] is None
        table[row["policy"]][row["question"], row["seed"]] = row
    return table


def by_label(summary):
    return {p.label: p for p in summary.policies}


def wilson(x, n):
    """By its formula."""
    z = 1.959963984540054
    middle = (x / n + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(x / n * (1 - x / n) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def check_share(found, outcomes):
    """`outcomes`: question -> list of 0 and 1."""
    n = sum(map(len, outcomes.values()))
    p = sum(map(sum, outcomes.values())) / n
    assert found.value == pytest.approx(p)
    variance = sum((sum(o) - p * len(o)) ** 2 for o in outcomes.values()) / n**2
    effective = min(p * (1 - p) / variance, n) if variance else len(outcomes)
    assert (found.low, found.high) == pytest.approx(wilson(p * effective, effective), abs=1e-9)


def check_ratio(found, units):
    """`units`: one (numerator, denominator) per unit; resampled here with other random numbers."""
    n = len(units)
    assert found.value == pytest.approx(sum(a for a, _ in units) / sum(b for _, b in units))
    rng = random.Random(n)
    ratios = []
    for _ in range(4000):
        drawn = rng.choices(units, k=n)
        ratios.append(sum(a for a, _ in drawn) / sum(b for _, b in drawn))
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    assert found.low == pytest.approx(low, abs=0.08 * (high - low))
    assert found.high == pytest.approx(high, abs=0.08 * (high - low))
    assert found.low < found.value < found.high


def per_question(rows, value):
    result = defaultdict(list)
    for (question, _), row in rows.items():
        result[question].append(value(row))
    return result


@pytest.mark.parametrize("label", POLICIES)
def test_accuracy_and_agreement_by_brute_force(summary, lines, label):
    found, mine, reference = by_label(summary)[label], lines[label], lines["target"]
    assert found.answers == 80
    assert found.failed == sum(
        r["error"] is not None or r["finish_reason"] == "length" for r in mine.values()
    )
    check_share(found.accuracy, per_question(mine, lambda r: r["good"]))
    for group, start in (("a", 0), ("b", 1)):
        chosen = {k: r for k, r in mine.items() if int(k[0][1:]) % 2 == start}
        check_share(found.groups[group], per_question(chosen, lambda r: r["good"]))
    if label == "target":
        assert found.same_text == found.same_answer == Estimate(1.0)
        return
    for field, estimate in (("text", found.same_text), ("answer", found.same_answer)):
        same = per_question(
            mine,
            lambda r, field=field: (
                r["error"] is None and r[field] == reference[r["question"], r["seed"]][field]
            ),
        )
        check_share(estimate, same)


@pytest.mark.parametrize("label", [x for x in POLICIES if x != "target"])
def test_differences_by_brute_force(summary, lines, label):
    found, mine, reference = by_label(summary)[label], lines[label], lines["target"]
    difference = found.difference
    units = [
        (
            sum(mine[f"q{i}", s]["good"] - reference[f"q{i}", s]["good"] for s in SEEDS),
            len(SEEDS),
        )
        for i in range(QUESTIONS)
    ]
    check_ratio(difference.gain, units)
    changes = []
    for at, seed in enumerate(SEEDS):
        gained = lost = 0
        for i in range(QUESTIONS):
            a, b = mine[f"q{i}", seed]["good"], reference[f"q{i}", seed]["good"]
            gained, lost = gained + (a and not b), lost + (b and not a)
            if a != b:
                changes.append((f"q{i}", seed, a))
        assert (difference.gained[at], difference.lost[at]) == (gained, lost)
        p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert difference.p_values[at] == pytest.approx(p)
    assert sorted((c.question, c.seed, c.gained) for c in found.changes) == sorted(changes)
    psi = len(changes) / (QUESTIONS * len(SEEDS))
    d = difference.detectable
    psi = max(psi, d)
    power = 0.0
    for k in range(QUESTIONS + 1):
        for g in range(k + 1):
            if k and stats.binomtest(g, k).pvalue <= 0.05:
                up = (psi + d) / (2 * psi)
                power += stats.binom.pmf(k, QUESTIONS, psi) * stats.binom.pmf(g, k, up)
    assert power == pytest.approx(0.8, abs=1e-3)


def test_holm_over_the_primary_comparisons_only(summary):
    policies = by_label(summary)
    largest = {x: max(policies[x].difference.p_values) for x in ("cospec", "eager")}
    first, second = sorted(largest, key=largest.get)
    assert policies[first].difference.p_adjusted == pytest.approx(min(2 * largest[first], 1))
    assert policies[second].difference.p_adjusted == pytest.approx(
        max(min(2 * largest[first], 1), largest[second])
    )
    assert all(policies[x].difference.p_adjusted is None for x in ("exact", "draft", "majority"))
    assert [p.label for p in summary.policies if p.is_primary] == ["cospec", "eager"]


@pytest.mark.parametrize("label", POLICIES)
def test_speed_by_brute_force(summary, lines, label):
    found, reference = by_label(summary)[label].speed, lines["target"]
    mine = {k: r for k, r in lines[label].items() if r["error"] is None}
    seconds = [r["seconds"] for r in mine.values()]
    assert found.seconds == pytest.approx(plain.mean(seconds))
    assert found.median_seconds == pytest.approx(plain.median(seconds))
    ordered = sorted(seconds)
    at = 0.9 * (len(ordered) - 1)
    below = ordered[int(at)]
    assert found.p90_seconds == pytest.approx(
        below + (at - int(at)) * (ordered[math.ceil(at)] - below)
    )
    target = [r["counters"]["target_seconds"] for r in mine.values()]
    draft = [r["counters"]["draft_seconds"] for r in mine.values()]
    assert found.target_seconds == pytest.approx(plain.mean(target))
    assert found.draft_seconds == pytest.approx(plain.mean(draft))

    chunks, tokens, answers = {}, 0, 0
    broken = {r["chunk"] for r in lines[label].values() if r["error"]}
    for row in lines[label].values():
        if row["chunk"] not in broken:
            tokens += row["counters"]["emitted_tokens"]
            answers += 1
            chunks[row["chunk"]] = row["chunk_seconds"]
    assert len(chunks) == 20 - len(broken)
    assert found.tokens_per_second == pytest.approx(tokens / sum(chunks.values()))
    other = sum(chunks.values()) / answers - plain.mean(target) - plain.mean(draft)
    assert found.other_seconds == pytest.approx(max(other, 0))

    def cost(row):
        return 8 * row["counters"]["target_passes"] + row["counters"]["draft_passes"]

    assert found.modelled_speedup == pytest.approx(
        sum(cost(reference[k]) for k in mine) / sum(map(cost, mine.values()))
    )
    if label == "target":
        assert found.latency_speedup == found.throughput_speedup == Estimate(1.0)
        return
    by_question = defaultdict(lambda: [0.0, 0.0])
    for (question, seed), row in mine.items():
        by_question[question][0] += reference[question, seed]["seconds"]
        by_question[question][1] += row["seconds"]
    check_ratio(found.latency_speedup, list(by_question.values()))
    theirs = {r["chunk"]: r["chunk_seconds"] for r in reference.values()}
    by_place = defaultdict(lambda: [0.0, 0.0])
    for chunk, taken in chunks.items():
        by_place[chunk % 10][0] += theirs[chunk]
        by_place[chunk % 10][1] += taken
    check_ratio(found.throughput_speedup, list(by_place.values()))


@pytest.mark.parametrize("label", POLICIES)
def test_work_by_brute_force(folder, summary, lines, label):
    found = by_label(summary)[label].work
    rows = [r for r in lines[label].values() if r["error"] is None]
    total = {
        name: sum(r["counters"][name] for r in rows)
        for name in rows[0]["counters"]
        if name != "accepted_per_position"
    }
    n, emitted = len(rows), total["emitted_tokens"]
    assert found.tokens == pytest.approx(emitted / n)
    assert found.target_passes == pytest.approx(total["target_passes"] / n)
    assert found.draft_passes == pytest.approx(total["draft_passes"] / n)
    assert found.target_passes_per_token == pytest.approx(total["target_passes"] / emitted)
    assert found.drafted_tokens == pytest.approx(total["drafted_tokens"] / n)
    by_draft = {"target": 0, "majority": 0, "draft": emitted}.get(label, total["accepted_tokens"])
    accepted_mismatches = None
    if label == "cospec":
        traces = [json.loads(x) for x in (folder / records.TRACES).read_text().splitlines()]
        by_draft = sum(t["origin"] == "draft" for x in traces for t in x["trace"]["tokens"])
        assert by_draft != total["accepted_tokens"]
        accepted_mismatches = 5.0  # six a request, of which the last was not emitted
    assert found.draft_tokens == pytest.approx(by_draft / n)
    assert found.target_tokens == pytest.approx((emitted - by_draft) / n)
    assert found.accepted_mismatches == accepted_mismatches
    if total["target_passes"]:
        assert found.tokens_per_pass == pytest.approx(emitted / total["target_passes"])
    else:
        assert found.tokens_per_pass is None
    if total["drafts"]:
        assert found.acceptance_rate == pytest.approx(
            total["accepted_tokens"] / total["drafted_tokens"]
        )
        accepted = [sum(r["counters"]["accepted_per_position"][i] for r in rows) for i in (0, 1)]
        assert found.accepted_per_position == pytest.approx([k / total["drafts"] for k in accepted])
    else:
        assert (found.acceptance_rate, found.accepted_per_position) == (None, [])


def test_signals_by_brute_force(folder, summary, lines):
    policies = by_label(summary)
    assert all(not policies[x].signals for x in ("target", "exact", "majority"))
    (draft,) = policies["draft"].signals
    answers, steps = policies["cospec"].signals
    assert (answers.name, answers.of) == (draft.name, draft.of) == ("calm", "answers")
    assert answers.edges == draft.edges  # shared, so they can be laid over one another
    assert (steps.name, steps.of) == ("sure", "steps")

    def values(label):
        rows = lines[label].values()
        return [[r["signals"]["calm"] for r in rows if r["good"] is good] for good in (True, False)]

    grades = {k: r["good"] for k, r in lines["cospec"].items()}
    by_step = {True: [], False: []}
    for line in map(json.loads, (folder / records.TRACES).read_text().splitlines()):
        for step in line["trace"]["steps"]:
            value = step["signals"]["sure"]
            by_step[grades[line["question"], line["seed"]]].append(
                value["raw"] if isinstance(value, dict) else value
            )
    for histogram, (right, wrong) in (
        (answers, values("cospec")),
        (draft, values("draft")),
        (steps, (by_step[True], by_step[False])),
    ):
        last = histogram.edges[-1]
        for counts, of in ((histogram.right, right), (histogram.wrong, wrong)):
            expected = [
                sum(low <= x < high or x == high == last for x in of)
                for low, high in pairwise(histogram.edges)
            ]
            assert counts == expected
            assert sum(counts) == len(of)
        wins = sum((r > w) + (r == w) / 2 for r in right for w in wrong)
        assert histogram.auc == pytest.approx(wins / (len(right) * len(wrong)))


def test_the_rest_of_the_summary(summary):
    assert (summary.task, summary.questions, summary.seeds) == ("sums", 40, [3, 8])
    assert (summary.batch, summary.reference) == (4, "target")
    assert (summary.target, summary.draft) == ("big", "small")
    assert [p.label for p in summary.policies] == list(POLICIES)
    assert [p.is_reference for p in summary.policies] == [True] + [False] * 5
    assert by_label(summary)["target"].difference is None
    assert by_label(summary)["exact"].parameters == {"n": 1}
    assert summary.complete
    assert summary.cost_ratio == 8.0
    assert (summary.machine, summary.versions) == ({"cpu": "slow"}, {"stet": "0"})
    assert (summary.command, summary.date) == ("stet compare", "2026-01-01T00:00:00+00:00")
    assert summary.recommendation
    assert summary.notes[0] == "Only a test."
    failed = "eager failed in 2 of 80 answers (first: It broke at q7.) "
    assert any(note.startswith(failed) for note in summary.notes)
    assert any("the largest over the seeds" in note for note in summary.notes)
    assert any(note.startswith("cospec: as often as grades differed") for note in summary.notes)


# What must not matter, and what must


def test_a_summary_is_the_same_every_time_and_whatever_the_order(folder, summary):
    results = records.read(folder)
    shuffled = list(results.answers)
    random.Random(0).shuffle(shuffled)
    assert summarise(replace(results, answers=shuffled), cost_ratio=8.0) == summary
    other = summarise(results, cost_ratio=8.0, seed=1)
    speed_ups = [by_label(x)["cospec"].speed.latency_speedup for x in (summary, other)]
    assert speed_ups[0].value == speed_ups[1].value
    assert speed_ups[0].low != speed_ups[1].low


def test_without_traces_counters_tell_who_wrote_what(folder):
    results = replace(records.read(folder), folder=None)
    policies = by_label(summarise(results, bootstrap=10))
    work = policies["cospec"].work
    assert work.draft_tokens == pytest.approx(work.acceptance_rate * work.drafted_tokens)
    assert work.accepted_mismatches is None
    assert policies["draft"].work.target_tokens == 0
    assert policies["target"].work.draft_tokens == 0
    assert [h.of for h in policies["cospec"].signals] == ["answers"]


def test_a_trace_of_one_sample_does_not_speak_for_a_vote(tmp_path):
    run = a_run(["target", "majority"], 1, [3])
    vote = an_answer("majority", counters=Counters(emitted_tokens=10, target_passes=10))
    line = {"policy": "majority", "question": "q0", "seed": 3}
    tokens = [{"origin": "draft"}] * 2
    (tmp_path / records.TRACES).write_text(
        json.dumps({**line, "trace": {"tokens": tokens}})
        + "\n"
        # A line without anything is one more thing that a later version might write.
        + json.dumps({"policy": "target", "question": "q0", "seed": 3, "trace": None})
        + "\n"
    )
    summary = summarise(Results(run, [an_answer(), vote], tmp_path))
    assert by_label(summary)["majority"].work.draft_tokens == 0


def test_steps_that_are_accepted_whole_are_the_drafts():
    # 8 tokens of two accepted steps, 2 of a rewritten one: no blocks, two passes and their checks.
    run = a_run(["target", "cospec"], 1, [3])
    step = an_answer("cospec", counters=Counters(emitted_tokens=10, target_passes=2))
    work = by_label(summarise(Results(run, [an_answer(), step])))["cospec"].work
    assert (work.draft_tokens, work.target_tokens) == (8, 2)


def test_one_seed_has_wilsons_interval():
    run = a_run(["target"], 30, [3])
    answers = [an_answer(question=f"q{i}", right=i % 3 > 0) for i in range(30)]
    (policy,) = summarise(Results(run, answers)).policies
    accuracy = policy.accuracy
    assert (accuracy.low, accuracy.high) == pytest.approx(wilson(20, 30))


def test_duplicates_and_strangers_are_refused():
    run = a_run(["target", "exact"], 2, [3])
    twice = [an_answer(), an_answer()]
    with pytest.raises(StetError, match="two answers of 'target' to question 'q0' with seed 3"):
        summarise(Results(run, twice))
    for stranger in (
        an_answer("beam"),
        an_answer(question="q9"),
        an_answer(seed=4),
    ):
        with pytest.raises(StetError, match="not part of the run"):
            summarise(Results(run, [an_answer(), stranger]))
    with pytest.raises(StetError, match="none of the run's policies"):
        summarise(Results(replace(run, reference="plain"), [an_answer()]))


@pytest.mark.parametrize("ratio", [0, -2, math.nan, math.inf])
def test_cost_ratios_that_are_none(ratio):
    with pytest.raises(OptionError, match="must be a positive number"):
        summarise(Results(a_run(["target"]), [an_answer()]), cost_ratio=ratio)


# Incomplete, failed and tiny runs


def test_an_incomplete_run_compares_what_both_have_answered(folder):
    results = records.read(folder)
    # The reference stopped early with seed 8, cospec in the middle of seed 3, draft never began.
    accepted = [
        a
        for a in results.answers
        if not (a.policy == "target" and a.seed == 8 and int(a.question[1:]) >= 12)
        and not (a.policy == "cospec" and (a.seed == 8 or int(a.question[1:]) >= 22))
        and a.policy != "draft"
    ]
    summary = summarise(replace(results, answers=accepted), bootstrap=200)
    policies = by_label(summary)
    assert list(policies) == [x for x in POLICIES if x != "draft"]
    assert policies["target"].answers == policies["exact"].answers == 52
    cospec = policies["cospec"]
    assert cospec.answers == 22
    right = {a.key[1:]: a.right for a in accepted if a.policy == "cospec"}
    reference = {a.key[1:]: a.right for a in accepted if a.policy == "target"}
    assert cospec.accuracy.value == pytest.approx(sum(right.values()) / 22)
    assert cospec.difference.gain.value == pytest.approx(
        sum(right[k] - reference[k] for k in right) / 22
    )
    assert cospec.difference.p_values[1] == 1.0  # nothing of the second seed
    # Five whole chunks of cospec; its sixth has only two of four answers.
    seconds = {a.chunk: a.chunk_seconds for a in accepted if a.policy == "cospec" and a.chunk < 5}
    theirs = {a.chunk: a.chunk_seconds for a in accepted if a.policy == "target" and a.chunk < 5}
    assert cospec.speed.throughput_speedup.value == pytest.approx(
        sum(theirs.values()) / sum(seconds.values())
    )
    assert not summary.complete
    note = next(n for n in summary.notes if "incomplete" in n)
    assert "target has 52 of 80, cospec has 22 of 80, draft has 0 of 80" in note
    assert "exact" not in note
    assert summary.recommendation.startswith("This run is incomplete")


def test_a_primary_comparison_without_answers_stays_in_holms_family():
    run = a_run(["target", "cospec", "eager"], 8, [3])
    answers = [
        an_answer(x, f"q{i}", right=x == "cospec") for x in ("target", "cospec") for i in range(8)
    ]
    difference = by_label(summarise(Results(run, answers)))["cospec"].difference
    assert difference.p_values == [2 / 2**8]
    assert difference.p_adjusted == pytest.approx(4 / 2**8)


def test_a_question_that_the_reference_failed_is_not_timed():
    run = a_run(["target", "exact"], 8, [3])
    answers = [an_answer("exact", f"q{i}", seconds=0.5 + i) for i in range(8)]
    answers += [
        an_answer(question=f"q{i}", seconds=1.0, error="No." if i == 2 else None) for i in range(8)
    ]
    exact = by_label(summarise(Results(run, answers)))["exact"]
    assert exact.speed.seconds == pytest.approx((32 - 2.5) / 7)
    assert exact.speed.latency_speedup.value == pytest.approx(7 / (32 - 2.5))
    assert exact.difference.gain.value == 1 / 8


def test_without_the_reference_there_is_nothing_to_say():
    run = a_run(["target", "exact"], 2, [3])
    with pytest.raises(StetError, match="reference 'target' has no answers"):
        summarise(Results(run, [an_answer("exact")]))


def test_failed_answers_are_wrong_and_not_timed():
    run = a_run(["target", "exact"], 8, [3])
    answers = [an_answer(question=f"q{i}") for i in range(8)]
    answers += [an_answer("exact", f"q{i}", seconds=0.5) for i in range(7)]
    answers.append(
        an_answer(
            "exact",
            "q7",
            seconds=0.001,
            error="Out of room.",
            finish_reason="error",
            counters=Counters(),
            chunk_seconds=2.0,
        )
    )
    summary = summarise(Results(run, answers))
    exact = by_label(summary)["exact"]
    assert exact.accuracy.value == 7 / 8
    assert (exact.failed, exact.same_text.value) == (1, 7 / 8)
    assert exact.speed.seconds == 0.5
    assert exact.speed.latency_speedup.value == 2.0
    # Of the two chunks the one with the failure tells nothing about throughput.
    assert exact.speed.throughput_speedup == Estimate(2.0)
    assert exact.work.tokens == 10
    assert any("exact failed in 1 of 8 answers (first: Out of room.)" in n for n in summary.notes)


def test_what_fails_with_both_is_the_same_work():
    run = a_run(["target", "exact"], 4, [3])
    answers = [
        an_answer(x, f"q{i}", seconds=s, error="Too long." if i == 2 else None)
        for x, s in (("target", 1.0), ("exact", 0.5))
        for i in range(4)
    ]
    exact = by_label(summarise(Results(run, answers)))["exact"]
    assert exact.speed.throughput_speedup.value == 2.0
    assert exact.same_text.value == 0.75


def test_everything_failed():
    run = a_run(["target", "exact"], 4, [3])
    answers = [
        an_answer(x, f"q{i}", error="No." if x == "exact" else None)
        for x in ("target", "exact")
        for i in range(4)
    ]
    summary = summarise(Results(run, answers), cost_ratio=3)
    exact = by_label(summary)["exact"]
    assert exact.accuracy.value == 0
    assert math.isnan(exact.speed.seconds)
    assert math.isnan(exact.speed.latency_speedup.value)
    assert math.isnan(exact.speed.modelled_speedup)
    assert exact.work.tokens == 0


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("questions", [1, 4, 7])
@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_tiny_runs(right, questions, seconds):
    run = a_run(["target", "exact", "cospec"], questions, [3])
    answers = [
        an_answer(x, f"q{i}", right=right, seconds=seconds, signals={"calm": 1.0})
        for x in ("target", "exact", "cospec")
        for i in range(questions)
    ]
    summary = summarise(Results(run, answers), cost_ratio=4, bootstrap=100)
    assert summary.complete
    for policy in summary.policies:
        assert policy.accuracy.value == right
        assert 0 <= policy.accuracy.low < policy.accuracy.high <= 1
        assert policy.signals[0].auc is None
        assert sum(policy.signals[0].right) == questions * right
        if not policy.is_reference:
            assert policy.difference.gain.value == 0
            assert (policy.difference.gain.low is None) == (questions < 5)
            assert policy.difference.p_values == [1.0]
            assert policy.difference.detectable is None
            if seconds:
                speed_up = policy.speed.latency_speedup
                assert speed_up.value == 1
                assert (speed_up.low is None) == (questions < 5)
            else:
                assert math.isnan(policy.speed.latency_speedup.value)
    assert summary.recommendation
    fewer = any("has no interval" in note for note in summary.notes)
    assert fewer  # there are two chunks at most


def test_without_a_grader_there_is_speed_and_agreement_only():
    run = a_run(["target", "exact"], 8, [3], graded=False, draft=None)
    answers = [
        an_answer(x, f"q{i}", right=None, text="a", seconds=s, answer=None, signals={"calm": 1.0})
        for x, s in (("target", 1.0), ("exact", 0.5))
        for i in range(8)
    ]
    summary = summarise(Results(run, answers))
    exact = by_label(summary)["exact"]
    assert (exact.accuracy, exact.difference, exact.same_answer) == (None, None, None)
    assert (exact.changes, exact.signals, exact.groups) == ([], [], {})
    assert exact.same_text.value == 1
    assert exact.speed.latency_speedup.value == 2
    assert summary.draft == "lookup"
    assert any("no grader" in note for note in summary.notes)
