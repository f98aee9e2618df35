"""Write measured figures into the pages that quote them, so that no number is typed by hand.

A page marks the place with `<!-- figures: NAME -->` and `<!-- end -->`; what stands between is
replaced by the table of that name, made from `benchmarks/results/`. `make docs` checks that nothing
is out of date; `python docs/figures.py` brings it up to date.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from choice_tables import CHOICE_TABLES
from evidence_tables import EVIDENCE_TABLES
from peer_tables import PEER_TABLES
from scale_tables import SCALE_TABLES
from scaling_tables import SCALING_TABLES
from serve_tables import SERVE_TABLES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = tuple(
    ROOT / name
    for name in (
        "README.md",
        "docs/specguard.md",
        "docs/cospec.md",
        "docs/choosing.md",
        "docs/models.md",
        "docs/performance.md",
        "docs/reward-guided.md",
        "docs/scale.md",
        "docs/serve.md",
        "docs/vllm.md",
        "recipes/README.md",
        "src/stet/bundled/MODEL_CARD.md",
    )
)
MARK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


FORMER = {"accepted_steps": "kept_steps", "accepted_mismatch_rate": "overrule_rate"}
"""Fields of results that were written before these names."""


def field(row: dict[str, Any], name: str) -> Any:
    """A row's entry, also in a result that has it under its former name."""
    return row[name] if name in row else row[FORMER[name]]


def table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def source(found: dict[str, Any], name: str, up: str = "") -> str:
    machine = found["machine"]
    processor = machine.get("processor") or machine.get("cpu", "")
    return (
        f"\n{processor}, {machine['cores']} cores, {found['date']}: `{found['command']}`, "
        f"[{name}.json]({up}benchmarks/results/{name}.json).\n"
    )


def bundled() -> str:
    found = result("bundled")
    figures = found["figures"]
    rows = [
        ["target", f"{figures['target_accuracy']:.1%}"],
        ["draft", f"{figures['draft_accuracy']:.1%}"],
        ["draft right where the target is wrong", f"{figures['draft_right_target_wrong']:.1%}"],
        ["tokens on which they mismatch", f"{figures['disagreement_rate']:.1%}"],
    ]
    heading = [f"Bundled pair, {figures['problems']:.0f} test problems, greedy", ""]
    return table(heading, rows) + source(found, "bundled")


def share(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.1%} ({100 * estimate['low']:.1f}-{100 * estimate['high']:.1f})"


def compare() -> str:
    found = result("compare")
    rows = []
    for row in found["rows"]:
        gain, speedup = row["gain"], row["speedup"]
        rows.append(
            [
                f"`{row['policy']}`",
                share(row["accuracy"]),
                "" if gain is None else f"{100 * gain['value']:+.1f}",
                f"{speedup['value']:.2f}x",
                "-" if row["tokens_per_pass"] is None else f"{row['tokens_per_pass']:.2f}",
                f"{row['same_text']:.0%}",
            ]
        )
    heading = ["policy", "right answers (95 %)", "points over target", "speed-up"]
    heading += ["tokens per target pass", "target's text"]
    figures = found["figures"]
    return (
        table(heading, rows) + f"\n{figures['problems']:.0f} test problems, "
        f"{figures['batch']:.0f} at a time, {figures['minutes']:.1f} minutes for everything. "
        f"{found['recommendation']}\n" + source(found, "compare")
    )


COSPEC_PAIRS = {
    "bundled": "bundled",
    "overconfident": "overconfident draft",
    "specialised": "specialised draft",
    **{f"control-{seed}": f"control {seed}" for seed in range(3)},
}
MISLEADING = ("overconfident", "specialised")


def cospec_rows(found: dict[str, Any], pair: str, part: str) -> dict[str, dict[str, Any]]:
    return {r["policy"]: r for r in found["rows"] if (r["pair"], r["part"]) == (pair, part)}


def cospec() -> str:
    """Everything on the bundled pair's test problems."""
    found = result("cospec")
    tests, speeds = (cospec_rows(found, "bundled", part) for part in ("test", "speed"))
    rows = []
    for name, row in tests.items():
        gain = row["gain_over_reference"]
        change, p = "", ""
        if gain is not None:
            change = f"{100 * gain['value']:+.1f} (+{row['gained']} -{row['lost']})"
            p = f"{row['p_values'][0]:.2g}"
        rate, fast = field(row, "accepted_mismatch_rate"), speeds.get(name)
        rows.append(
            [
                f"`{name}`",
                share(row["accuracy"]),
                change,
                p,
                "-" if row["tokens_per_pass"] is None else f"{row['tokens_per_pass']:.2f}",
                "-" if rate is None else f"{rate:.0%}",
                "" if fast is None else f"{fast['speed']['value']:.2f}x",
            ]
        )
    heading = ["policy", "right answers (95 %)", "points over target", "McNemar's p"]
    heading += ["tokens per pass", "mismatches accepted", "speed-up, one at a time"]
    figures = found["figures"]
    return (
        table(heading, rows)
        + f"\n{figures['problems']:.0f} test problems, {next(iter(tests.values()))['batch']} at a "
        "time; the settings of the rules and the thresholds of the arbiters were chosen on "
        "validation problems. Mismatches accepted: of the mismatches that were decided, those in "
        "which the draft's token was accepted.\n" + source(found, "cospec", "../")
    )


def cospec_primary() -> str:
    """The arbiter less the best plain rule, on every pair that was measured."""
    found = result("cospec")
    figures, rows = found["figures"], []
    for pair, words in COSPEC_PAIRS.items():
        prefix = "" if pair == "bundled" else f"{pair}_"

        def of(name: str, prefix: str = prefix) -> float:
            return float(figures[prefix + name])

        if f"{prefix}accuracy_cospec" not in figures:
            continue
        rows.append(
            [
                words,
                f"{of('accuracy_target'):.1%}",
                f"{of('accuracy_cospec'):.1%}",
                f"{of('gain_points'):+.1f} "
                f"({of('gain_points_low'):+.1f} to {of('gain_points_high'):+.1f})",
                f"{of('accuracy_best_plain_rule'):.1%}",
                f"{of('gain_over_best_plain_rule_points'):+.1f} "
                f"({of('gain_over_best_plain_rule_points_low'):+.1f} to "
                f"{of('gain_over_best_plain_rule_points_high'):+.1f})",
                f"{of('tokens_per_pass_exact'):.2f}",
                f"{of('tokens_per_pass_best_plain_rule'):.2f}",
                f"{of('tokens_per_pass_cospec'):.2f}",
            ]
        )
    heading = ["pair", "target", "`cospec`", "points over target (95 %)", "best plain rule"]
    heading += ["points over that (95 %)", "tokens per pass: `exact`", "best rule", "`cospec`"]
    return table(heading, rows) + source(found, "cospec", "../")


def cospec_pairs() -> str:
    """Everything on the pairs whose drafts mislead."""
    found = result("cospec")
    pairs = {p: cospec_rows(found, p, "test") for p in MISLEADING}
    pairs = {pair: rows for pair, rows in pairs.items() if rows}
    names = dict.fromkeys(name for entries in pairs.values() for name in entries)
    rows = []
    for name in names:
        cells = [f"`{name}`"]
        for entries in pairs.values():
            row = entries.get(name)
            if row is None:
                cells += ["", "", ""]
                continue
            gain = row["gain_over_reference"]
            cells += [
                share(row["accuracy"]),
                "" if gain is None else f"{100 * gain['value']:+.1f}",
                "-" if row["tokens_per_pass"] is None else f"{row['tokens_per_pass']:.2f}",
            ]
        rows.append(cells)
    heading = ["policy"]
    for pair in pairs:
        heading += [f"{COSPEC_PAIRS[pair]}: right answers (95 %)", "points", "tokens per pass"]
    problems = found["figures"][f"{next(iter(pairs))}_problems"]
    return (
        table(heading, rows) + f"\n{problems:.0f} test problems.\n" + source(found, "cospec", "../")
    )


def cospec_overhead() -> str:
    """What deciding costs."""
    found = result("cospec")
    rows = [
        [
            PAIRS[entry["pair"]],
            f"{entry['rounds']}",
            f"{entry['disagreements_decided']}",
            f"{entry['milliseconds_of_a_round']:.2f} ms",
            f"{entry['milliseconds_of_the_target']:.2f} ms",
            f"{entry['milliseconds_of_the_arbiter']:.2f} ms",
            f"{entry['share_of_a_round']:.1%}",
            f"{entry['share_of_the_target']:.1%}",
            f"{entry['share_of_a_round_same_twice']:+.1%}",
        ]
        for entry in found["pairs"]["bundled"]["overhead"]
    ]
    heading = ["pair", "rounds", "decided", "a round", "the target's half", "the arbiter"]
    heading += ["of a round", "of the target's half", "`exact` against itself"]
    return table(heading, rows) + source(found, "cospec", "../")


def cospec_oracle() -> str:
    """The four outcomes of a mismatch, and how often each rule picks the right token."""
    found = result("cospec")
    figures, agreement = found["figures"], found["pairs"]["bundled"]["agreement"]
    cells, total = agreement["cells"], agreement["disagreements"]
    first = table(
        ["what leads to a right answer", "mismatches", "share"],
        [[name, f"{count}", f"{count / total:.1%}"] for name, count in cells.items()],
    )
    shares = agreement["agreement"]
    ours = [v for name, v in shares.items() if name.startswith("cospec")]
    named = {k: v for k, v in shares.items() if not k.startswith(("cospec", "warm"))}
    named |= {"`cospec`, mean of the seeds": sum(ours) / len(ours)}
    second = table(
        ["picks the token that leads to a right answer", "where one alone does"],
        [[name, f"{value:.1%}"] for name, value in named.items()],
    )
    return (
        f"{first}\n{second}\nThe target finished every answer. On the same "
        f"{figures['oracle_problems']:.0f} test problems the target is right on "
        f"{figures['accuracy_target_of_oracle_problems']:.1%}, and on "
        f"{figures['accuracy_oracle']:.1%} with at most three mismatches accepted, chosen by "
        "looking at the right answers.\n" + source(found, "cospec", "../")
    )


def cospec_inside() -> str:
    """SpecGuard with an arbiter in what the target rewrites."""
    found = result("cospec")
    entries = cospec_rows(found, "bundled", "inside")
    rows = [
        [
            f"`{name}`",
            share(row["accuracy"]),
            "" if row["gained"] is None else f"+{row['gained']} -{row['lost']}",
            f"{row['tokens_per_pass']:.2f}",
            f"{row['speed']['value']:.2f}x",
        ]
        for name, row in entries.items()
    ]
    batch = next(iter(entries.values()))["batch"]
    heading = ["policy", "right answers (95 %)", "won and lost", "tokens per pass"]
    return table([*heading, f"speed-up, {batch} at a time"], rows) + source(found, "cospec", "../")


def cospec_importance() -> str:
    """What shuffling a feature loses, of each seed's arbiter."""
    found = result("cospec")
    trained = [t for t in found["pairs"]["bundled"]["trainings"] if t["name"].startswith("train-")]
    names = list(trained[0]["importance"])
    rows = [
        [f"`{name}`", *(f"{t['importance'][name]:.2f}" for t in trained)]
        for name in sorted(names, key=lambda n: -sum(t["importance"][n] for t in trained))
    ]
    heading = ["right answers lost for 100 mismatches without", *(t["name"] for t in trained)]
    return table(heading, rows) + source(found, "cospec", "../")


METHODS = {
    "product": "`stet calibrate --risk`",
    "uncorrected": "the same tests without correction for the thresholds",
    "untested": "few enough losses, no test",
    "per_step": "tests on steps taken as independent",
}


def risk_bound() -> str:
    found = result("risk_bound")
    figures = found["figures"]
    sizes = sorted({row["problems"] for row in found["rows"]})
    rows = []
    for method, words in METHODS.items():
        for delta in sorted({row["delta"] for row in found["rows"]}):
            cells = [words, f"{delta:.0%}"]
            for size in sizes:
                same = [
                    row
                    for row in found["rows"]
                    if (row["method"], row["delta"], row["problems"]) == (method, delta, size)
                ]
                worst = max(same, key=lambda row: row["rate"])
                low, high = 100 * worst["rate_low"], 100 * worst["rate_high"]
                cells.append(f"{worst['rate']:.1%} ({low:.1f}-{high:.1f})")
            rows.append(cells)
    heading = ["chosen by", "promised", *(f"{size} problems" for size in sizes)]
    risks = ", ".join(f"{100 * t['risk']:.1f}" for t in found["thresholds"])
    bounds = [100 * row["alpha"] for row in found["rows"]]
    own = max((row["own_rate"], row["delta"]) for row in found["rows"] if "own_rate" in row)
    return (
        table(heading, rows)
        + f"\nShare of {figures['resplits']:.0f} re-splits in which the chosen "
        "threshold loses more of the remaining problems than the bound allows (95 % interval), at "
        f"the worst of all bounds from {min(bounds):.1f} to {max(bounds):.1f} %. Pool of "
        f"{figures['problems']:,.0f} problems; the thresholds lose {risks} % of them. "
        f"Tests on steps fail by their own measure too, a share of accepted steps: in up to "
        f"{own[0]:.1%} of the re-splits where {own[1]:.0%} is promised.\n"
        + source(found, "risk_bound", "../")
    )


def specguard() -> str:
    found = result("specguard")
    figures = found["figures"]
    rows = []
    for row in found["rows"]:
        if row["part"] not in ("greedy", "sampled") or (
            row["part"] == "sampled" and row["policy"] == "exact"
        ):
            continue
        accuracy, speed = row["accuracy"], row["speed_over_exact"]
        interval = f"({100 * accuracy['low']:.1f}-{100 * accuracy['high']:.1f})"
        accepted = field(row, "accepted_steps")
        rows.append(
            [
                f"`{row['policy']}`",
                f"{accuracy['value']:.1%} {interval}",
                f"{speed['value']:.2f}x",
                f"{row['target_passes']:.1f}",
                "" if accepted is None else f"{accepted:.0%}",
            ]
        )
    text = table(["policy", "right", "speed over exact", "target passes", "steps accepted"], rows)
    text += (
        f"\n{figures['problems']:.0f} test problems, bundled pair, 16 at a time; means per answer. "
        f"Against `exact`: p = {figures['p_value_over_exact']:.2f} for the accuracy of `specguard`."
    )
    if "latency_ratio_to_exact" in figures:
        text += (
            " One at a time an answer of `specguard` takes "
            f"{figures['latency_ratio_to_exact']:.2f} of the time of `exact`, "
            f"{figures['latency_ratio_to_target']:.2f} of the target's alone."
        )
    if "latency_ratio_to_rsd_strict" in figures:
        text += (
            " Reward-guided decoding at its published threshold is faster and loses "
            f"{100 * (figures['accuracy_exact'] - figures['accuracy_rsd']):.1f} points; strict "
            f"enough to be {figures['accuracy_rsd_strict']:.1%} right, it takes "
            f"{1 / figures['latency_ratio_to_rsd_strict']:.2f} times as long as `specguard`."
        )
    if found["limit"] is not None:
        limit = found["limit"]
        text += (
            f" Of the {limit['wrong']} wrong answers of the target, {limit['saved']} would have "
            "come out right with some one step of the draft's in the place of the target's, which "
            f"is true of {limit['saving']} of their {limit['steps']} steps: an oracle that knew "
            f"which would gain {100 * figures['saved_by_a_draft_step']:.1f} points. But the AUROC "
            f"of the draft's signals for that is {min(limit['auroc'].values()):.2f} to "
            f"{max(limit['auroc'].values()):.2f}, and 0.5 is chance."
        )
    return text + "\n" + source(found, "specguard", "../")


def plateau() -> str:
    found = result("plateau")
    figures = found["figures"]
    return (
        f"After {figures['further_tokens'] / 1e6:.1f} M further tokens the validation loss is "
        f"{figures['loss_after']:.4f} (before: {figures['loss_before']:.4f}), and of "
        f"{figures['problems']:.0f} problems of the split `{found['split']}` "
        f"{figures['accuracy_after']:.1%} are solved (before: {figures['accuracy_before']:.1%}; "
        f"difference {100 * figures['gain']:+.1f} points, 95 % interval "
        f"{100 * figures['gain_low']:+.1f} to {100 * figures['gain_high']:+.1f}, McNemar's p "
        f"{figures['p_value']:.2g}).\n" + source(found, "plateau", "../../../")
    )


PAIRS = {"bundled": "the bundled pair", "wide": "a wide random pair"}
SIGNAL_SETS = {
    "off_again": "none (what the measurement is worth)",
    "min_logprob": "`min_logprob`, the default",
    "default": "`min_logprob` and `grounding`, the paper's",
    "default_looking": "the same, looked at after every token",
    "all": "all",
    "paper": "the paper's, with its selector, 16 candidates",
}


def signals() -> str:
    found = result("signals")
    rows: list[list[str]] = []
    for name, words in SIGNAL_SETS.items():
        cells = []
        for pair in PAIRS:
            row = next(
                r
                for r in found["rows"]
                if r["what"] == "draft"
                and r["pair"] == pair
                and r["batch"] == 1
                and not r["compiled"]
                and name in r["overhead"]
                and (r["candidates"] > 1) == (name == "paper")
            )
            of = row["overhead"][name]
            cells.append(
                f"{100 * of['value']:+.1f} % ({100 * of['low']:+.1f} to {100 * of['high']:+.1f})"
            )
        rows.append([words, *cells])
    figures = found["figures"]
    return (
        table(["signals", *PAIRS.values()], rows)
        + "\nTime added to the draft's, one request, eager, steps of one candidate unless said "
        "otherwise. With signals on the target runs "
        f"{figures['target_extra_operations_bundled']:.0f} operations more; "
        f"{figures['same_text_share']:.0%} of the texts are the same.\n"
        + source(found, "signals", "../")
    )


SIZES = {
    "head": "`head`",
    "draft": "`bundled`: the draft's two layers",
    "draft+2": "the draft's layers and two more",
    "target-4": "the target's first four layers",
    "1x64": "1 layer of 64, from scratch",
    "2x96": "2 layers of 96, from scratch",
    "3x128": "3 layers of 128, from scratch",
    "min_logprob": "`min_logprob`, for comparison",
}
"""Words for the rewards that were tried, in the order of the table."""


def rewards() -> str:
    found = result("reward")
    measured = {row["reward"]: row for row in found["rows"] if "auroc" in row}
    rows = []
    for name, words in SIZES.items():
        row = measured[name]
        trained = "cost_in_draft_passes" in row
        rows.append(
            [
                words,
                f"{row['auroc']:.3f} ({row['low']:.3f}-{row['high']:.3f})",
                f"{row['cost_in_draft_passes']:.1f}" if trained else "-",
                f"{row['training_tokens'] / 1e6:.1f} M" if trained else "-",
            ]
        )
    figures = found["figures"]
    heading = ["reward", "AUROC (95 %)", "cost in draft passes", "trained on tokens"]
    return (
        table(heading, rows)
        + f"\n{figures['steps']:.0f} steps, {figures['bad_steps']:.0f} of them bad.\n"
        + source(found, "reward", "../")
    )


def reward_guided() -> str:
    found = result("reward")
    rows = []
    for row in found["rows"]:
        if "policy" in row:
            accepted = field(row, "accepted_steps")
            name = f"`{row['policy']}`"
            if "reward" in row:
                name = f"`{row['reward']}`, threshold {row['threshold']:g}"
            rows.append(
                [
                    name,
                    f"{row['accuracy']:.1%}",
                    "-" if accepted is None else f"{accepted:.0%}",
                    f"{row['target_passes']:.1f}",
                    f"{1000 * row['processor_seconds']:.0f} ms",
                ]
            )
    figures = found["figures"]
    heading = ["", "right answers", "steps accepted", "target passes", "processor time per answer"]
    return table(heading, rows) + f"\n{figures['problems']:.0f} problems.\n"


def equality() -> str:
    found = result("equality")
    rows = [
        [
            row["pair"],
            row["dtype"],
            f"{row['equal_texts']} of {row['texts']}",
            f"{row['tokens_changed']} of {row['tokens']}",
            f"{row['logits_apart']:.2g}",
            "-" if (most := row["largest_margin_changed"]) is None else f"{most:.2g} nats",
        ]
        for row in found["rows"]
    ]
    heading = ["models", "dtype", "equal texts", "best tokens changed", "logits apart, at most"]
    heading += ["margin of those changed, at most"]
    return table(heading, rows) + source(found, "equality", "../")


def decoder() -> str:
    found = result("decoder")
    rows = [
        [
            f"{row['model']}, {row['dtype']}",
            str(row["batch"]),
            str(row["width"]),
            f"{row['milliseconds_transformers']['median']:.2f}",
            f"{row['milliseconds_stet']['median']:.2f}",
            f"{row['speed_up']['median']:.2f}x",
        ]
        for row in found["rows"]
    ]
    heading = ["processor's milliseconds of a pass, without head", "sequences", "tokens of each"]
    heading += ["transformers' module", "Stet's decoder", "speed-up"]
    return table(heading, rows) + source(found, "decoder", "../")


def bfloat16() -> str:
    found = result("bfloat16")
    row, speeds = found["rows"][0], found["rows"][0]["tokens_per_second"]
    names = (
        ("generate", "transformers' `generate`"),
        ("assisted", f"its assisted generation, {row['assisted_length']} drafted tokens"),
        ("target", "Stet, target alone"),
        ("exact", "Stet, `exact`"),
    )
    rows = [[words, f"{speeds[name]:.1f}"] for name, words in names]
    figures = found["figures"]
    heading = [f"{row['target']} with {row['draft']}, bfloat16", "tokens per second"]
    return (
        table(heading, rows) + f"\nPrompt by prompt, in the median: target over `generate` "
        f"{figures['target_vs_generate_bf16_real']:.2f}x, `exact` over assisted generation "
        f"{figures['exact_vs_assisted_bf16_real']:.2f}x, `exact` over the target "
        f"{figures['exact_vs_target_bf16_real']:.2f}x ({row['prompts']} prompts of GSM8K, batch 1, "
        f"up to {row['max_new_tokens']} tokens; `exact` wrote the target's own text on "
        f"{row['same_exact_target']:.0%} of them).\n" + source(found, "bfloat16", "../")
    )


def quantisation() -> str:
    found = result("quantisation")
    rows = []
    for row in found["rows"]:
        nats = row["nats_more_for_a_token"]
        cells = [
            row["format"],
            f"{row['gigabytes']:.2f}",
            f"{row['perplexity']:.3f}",
            "" if row is found["rows"][0] else bounds(nats, 1, 4),
        ]
        if "accuracy" in row:
            cells += [share(row["accuracy"])]
            cells += ["" if row is found["rows"][0] else bounds(row["gain"], 100, 1)]
        else:
            cells += ["-", "-"]
        rows.append(cells)
    first = found["rows"][0]
    heading = [f"weights of {found['target']}", "GB", "perplexity", "nats a token more (95 %)"]
    heading += ["right answers (95 %)", "points more (95 %)"]
    return (
        table(heading, rows)
        + f"\nThe first row's texts: {first['tokens']} tokens of {first['texts']} questions with "
        "solutions of GSM8K's train split; other rows are compared on the same ones.\n"
        + source(found, "quantisation", "../")
    )


def bounds(estimate: dict[str, Any], factor: float, places: int) -> str:
    """A difference with its interval."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if low is None:
        return f"{factor * value:+.{places}f}"
    return (
        f"{factor * value:+.{places}f} ({factor * low:+.{places}f} to {factor * high:+.{places}f})"
    )


README_PEERS = ("peers_bundled", "peers_readme")
"""Tables of the comparison with peers that are in the README, not in docs."""


def of_peers(name: str, up: str = "../") -> Callable[[], str]:
    """One of the tables that are made from the comparison with peers."""

    def made() -> str:
        found = result("peers")
        part = "" if found["finished"] else "\nPart of a run: not everything is measured yet.\n"
        return PEER_TABLES[name](found) + part + source(found, "peers", up)

    return made


def of_scaling(name: str) -> Callable[[], str]:
    """A table about how cost grows."""

    def made() -> str:
        found = result("scaling")
        return SCALING_TABLES[name](found) + source(found, "scaling", "../")

    return made


def picture_of_scaling(pair: str) -> Callable[[], str]:
    """The curves of a pair, which docs/scaling_plots.py draws, once they are measured."""

    def made() -> str:
        found = result("scaling")
        if not found["curves"][pair]:
            raise FileNotFoundError(2, "", f"scaling.json of the {pair} pair")
        return f"![How cost grows, {pair} pair](images/scaling-{pair}.svg)\n"

    return made


def of_choice(name: str) -> Callable[[], str]:
    """A table about what Stet decides by itself."""

    def made() -> str:
        found = result(name)
        return CHOICE_TABLES[name](found) + source(found, name, "../")

    return made


def of_evidence(name: str, up: str = "../") -> Callable[[], str]:
    """A table about what the methods did where something can be gained."""
    made_of, file = EVIDENCE_TABLES[name]

    def made() -> str:
        found = result(file)
        return made_of(found) + source(found, file, up)

    return made


def picture_of_peers(name: str, words: str) -> Callable[[], str]:
    """A picture that docs/peer_plots.py draws of the same result, once there is one."""

    def made() -> str:
        result("peers")
        return f"![{words}](images/{name}.svg)\n"

    return made


def of_scale(name: str) -> Callable[[], str]:
    """A table about runs on many machines."""

    def made() -> str:
        found = result("scale")
        make, part = SCALE_TABLES[name]
        frame = found["parts"].get(part, found)  # of this part alone
        return make(found) + source(frame, "scale", "../")

    return made


def of_serve(name: str) -> Callable[[], str]:
    origin, make = SERVE_TABLES[name]

    def made() -> str:
        found = result(origin)
        return make(found) + source(found, origin, "../")

    return made


TABLES: dict[str, Callable[[], str]] = {
    **{name: of_peers(name, "" if name in README_PEERS else "../") for name in PEER_TABLES},
    "peers_picture": picture_of_peers("peers", "Tokens per second of every engine"),
    "speedup_picture": picture_of_peers("speedup", "Speed-up against acceptance, and against K"),
    **{name: of_scaling(name) for name in SCALING_TABLES},
    **{name: of_scale(name) for name in SCALE_TABLES},
    **{name: of_serve(name) for name in SERVE_TABLES},
    "scaling_bundled": picture_of_scaling("bundled"),
    "scaling_real": picture_of_scaling("real"),
    **{name: of_choice(name) for name in CHOICE_TABLES},
    **{name: of_evidence(name) for name in EVIDENCE_TABLES},
    "evidence_readme": of_evidence("evidence_pairs", ""),
    "bfloat16": bfloat16,
    "quantisation": quantisation,
    "bundled": bundled,
    "compare": compare,
    "cospec": cospec,
    "cospec_importance": cospec_importance,
    "cospec_inside": cospec_inside,
    "cospec_oracle": cospec_oracle,
    "cospec_primary": cospec_primary,
    "decoder": decoder,
    "equality": equality,
    "plateau": plateau,
    "reward_guided": reward_guided,
    "rewards": rewards,
    "risk_bound": risk_bound,
    "signals": signals,
    "specguard": specguard,
    "cospec_pairs": cospec_pairs,
    "cospec_overhead": cospec_overhead,
}


def filled(text: str) -> str:
    """The page with all its figures as they are in the results."""

    def fill(found: re.Match[str]) -> str:
        try:
            return found[1] + TABLES[found[2]]() + found[3]
        except FileNotFoundError as missing:
            return f"{found[1]}Not measured yet ({Path(missing.filename).name}).\n{found[3]}"

    return MARK.sub(fill, text)


def main() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
