"""The tables of the evidence: what each method did on each pair, and what was wanted of it."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from peer_tables import table

Result = dict[str, Any]
Row = dict[str, Any]

NAMES = {
    "cospec 0": "`cospec`",
    "warm start 0": "`cospec`, its warm start alone",
    "without hidden states 0": "`cospec` without hidden states",
    "shuffled labels": "an arbiter trained on shuffled labels",
    "autojudge": "`autojudge`",
    "autojudge, tuned": "`autojudge`, tuned on right answers",
    "router": "a router of questions",
    "specguard": "`specguard`, calibrated",
}
"""Contenders that are not called as the policy is."""


def named(label: str) -> str:
    plain = label.replace("-", "").replace(" ", "")
    return NAMES.get(label, f"`{label}`" if plain.isalpha() and " " not in label else label)


def of_kind(found: Result, kind: str) -> dict[str, list[Row]]:
    """By contender the rows of all control pairs."""
    rows: dict[str, list[Row]] = {}
    for row in found["rows"]:
        if row["pair"].startswith("control-") and row["kind"] == kind:
            rows.setdefault(row["policy"], []).append(row)
    return rows


def control(found: Result, kind: str) -> str:
    """Every contender of a kind: the mean of the control pairs, and each."""
    every = of_kind(found, kind)
    count = max(len(rows) for rows in every.values())
    rows = []
    for label, own in every.items():
        points = [row["all"]["points"] for row in own if "points" in row["all"]]
        cells = [
            named(label),
            f"{fmean([row['all']['accuracy'] for row in own]):.1%}",
            " / ".join(f"{100 * row['all']['accuracy']:.1f}" for row in own),
            f"{fmean(points):+.1f}" if points else "",
        ]
        if kind == "tokens":
            passes = [row["tokens_per_pass"] for row in own if row["tokens_per_pass"]]
            cells.append(f"{fmean(passes):.2f}" if passes else "-")
        else:
            cells.append(f"{fmean([row['time_over_exact'] for row in own]):.2f}x")
        rows.append(cells)
    base = "target" if kind == "tokens" else "`exact`"
    last = "tokens per pass" if kind == "tokens" else "time over `exact`'s, 16 at a time"
    each = "each pair" if count > 1 else "the pair"
    return table(["policy", "right answers", each, f"points over {base}", last], rows)


def tokens(found: Result) -> str:
    """Token policies on the control pairs."""
    return control(found, "tokens")


def steps(found: Result) -> str:
    """Step policies on the control pairs."""
    return control(found, "steps")


def interval(figures: dict[str, float], name: str, ends: str) -> str:
    low, high = (figures[f"{ends}_{end}"] for end in ("low", "high"))
    return f"{figures[name]:+.1f} ({low:+.1f} to {high:+.1f})"


def chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p {p:.2g}"


def wanted(found: Result) -> str:
    """What was wanted of the control pairs, and what was found."""
    figures = {k.removeprefix("control_"): v for k, v in found["figures"].items()}
    gradient = "policy_gradient_over_warm_start_points"
    rows = [
        (
            "`cospec` over the target alone, points",
            "at least +4, p < 0.01",
            f"{interval(figures, 'cospec_gain_points', 'cospec')}, {chance(figures['cospec_p'])}",
        ),
        (
            "`cospec` over the best of plain rule, cascades and router, points",
            "above 0",
            interval(figures, "cospec_over_best_other_points", "cospec_over_best_other"),
        ),
        (
            "policy gradient over its warm start, points",
            "above 0",
            interval(figures, gradient, gradient),
        ),
        (
            "`specguard` over `exact`, relative",
            "at least +3.6 %, p < 0.05",
            f"{figures['specguard_relative_gain']:+.1%}, {chance(figures['specguard_p'])}",
        ),
    ]
    optional = {
        "cospec_time_vs_faster": (
            "`cospec`'s time over the faster of target and `exact`, one at a time",
            "at most 1",
        ),
        "specguard_time_vs_faster": ("`specguard`'s time over the same", ""),
        "oracle_agreement_non_tie": (
            "where one token alone is right, `cospec` takes it",
            "at least 0.85, and 0.1 above either model",
        ),
        "always_target_agreement_non_tie": ("there the target's is the right one", ""),
        "always_draft_agreement_non_tie": ("there the draft's is", ""),
        "specguard_time_vs_rsd": (
            "`specguard`'s time over reward-guided decoding's, as strict as it has to be",
            "at most 0.89",
        ),
        "specguard_time_vs_rsd_as_published": (
            "the same, at its published threshold",
            "",
        ),
        "specguard_over_rsd_as_published_points": (
            "`specguard` over it at that threshold, points",
            "",
        ),
        "router_gain_points": ("a router of questions over the target, points", ""),
        "shuffled_gain_points": ("shuffled labels over the target, points", "about 0"),
    }
    rows += [
        (words, aim, f"{figures[name]:.2f}")
        for name, (words, aim) in optional.items()
        if name in figures
    ]
    return table(["", "wanted", "found"], [list(row) for row in rows])


def step_choice(found: Result) -> str:
    """Who chooses between both models' steps, and by what."""
    pairs = list(dict.fromkeys(row["pair"] for row in found["rows"]))
    of = {(row["pair"], row["policy"]): row for row in found["rows"]}
    rows = []
    for label in dict.fromkeys(row["policy"] for row in found["rows"]):
        own = [of[pair, label]["accuracy"] for pair in pairs]
        kind = label.partition(", ")[2].replace("head on states of ", "")
        column = "difference" if label.startswith("better") else "draft's step"
        name = f"auroc of the {column}, {kind}"
        areas = [area for pair in pairs if (area := found["learnt"][pair].get(name)) is not None]
        rows.append(
            [
                named(label) if not kind else label,
                f"{fmean(own):.1%}",
                " / ".join(f"{100 * value:.1f}" for value in own),
                f"{fmean(areas):.2f}" if areas else "",
            ]
        )
    heading = ["whose step stands", "right answers", "each pair", "AUROC where one step is right"]
    return table(heading, rows)


PAIRS = {
    "real": "real: a general pair of one family, the draft weaker at everything",
    "tuned": "tuned: the same, its draft tuned on the task",
    "control": "control: the draft weak, and expert in what the target lacks",
}


def points(figures: dict[str, float], gain: str, ends: str) -> str:
    """A gain with its interval, where it is known."""
    if gain not in figures:
        return ""
    return interval(figures, gain, ends) if f"{ends}_low" in figures else f"{figures[gain]:+.1f}"


def pairs(found: Result) -> str:
    """What was gained on each kind of pair."""
    rows = []
    for pair, words in PAIRS.items():
        prefix = f"{pair}_"
        of = {
            k.removeprefix(prefix): v for k, v in found["figures"].items() if k.startswith(prefix)
        }
        if "target" not in of:
            continue
        rows.append(
            [
                words,
                f"{of['target']:.1%}",
                f"{of['draft']:.1%}" if "draft" in of else "",
                f"{of['draft_only_right_share']:.1%}" if "draft_only_right_share" in of else "",
                points(of, "cospec_gain_points", "cospec"),
                points(of, "specguard_gain_points", "specguard"),
                points(of, "best_plain_rule_gain_points", "best_plain_rule"),
            ]
        )
    heading = ["pair", "target", "draft", "mismatches at which the draft alone is right"]
    heading += ["`cospec`, points over target", "`specguard`, calibrated", "best plain rule"]
    return table(heading, rows)


STUDIED = {
    "bundled": "bundled: weaker at everything",
    "control-0": "control 0: weak, and expert in part",
    "control-1": "control 1",
    "control-2": "control 2",
    "overconfident": "overconfident",
    "specialised": "specialised: lost elsewhere, and sure of itself",
}


def overrule(found: Result) -> str:
    """What overruling by each margin does on each pair, and what a calibration makes of it."""
    tried = {row["margin"] for row in found["rows"]} - {None, "calibrated"}
    margins = sorted(tried, key=float)
    of = {(row["pair"], row["margin"]): row for row in found["rows"]}
    rows = []
    for pair, words in STUDIED.items():
        learnt = found["learnt"][pair]
        cells = [words, f"{of[pair, None]['accuracy']['value']:.1%}"]
        cells += [_gain(of[pair, margin]) for margin in margins]
        cells.append(f"{learnt['saving']} / {learnt['misleading']}")
        margin = learnt["margin"]
        own = "none: 0" if margin is None else f"{margin:g}: {_gain(of[pair, 'calibrated'])}"
        rows.append([*cells, own])
    heading = ["the draft", "`exact`", *(f"points at {margin}" for margin in margins)]
    heading += ["steps that save / mislead", "the margin that a calibration finds, and its points"]
    note = f"{found['problems']} validation problems of each pair; margins are fitted to the steps "
    return table(heading, rows) + f"\n{note}of {found['learn']} calibration problems.\n"


def _gain(row: Result) -> str:
    gain = row["gain"]
    low, high = 100 * gain["low"], 100 * gain["high"]
    return f"{100 * gain['value']:+.1f} ({low:+.1f} to {high:+.1f})"


EVIDENCE_TABLES = {
    "overrule": (overrule, "overrule"),
    "evidence_pairs": (pairs, "evidence"),
    "evidence_tokens": (tokens, "evidence"),
    "evidence_steps": (steps, "evidence"),
    "evidence_wanted": (wanted, "evidence"),
    "step_choice": (step_choice, "step_choice"),
}
"""By name: what makes a table, and of which result."""
