"""The tables about what Stet decides by itself: block lengths, forecasts, how threads wait."""

from __future__ import annotations

from typing import Any

from peer_tables import table

Result = dict[str, Any]

SETTINGS = {
    "gguf": "real pair, 4-bit files",
    "bf16": "real pair, bfloat16",
    "bundled": "bundled pair",
    "gguf-stranger": "real pair, 4-bit files, a draft of which nothing is accepted",
    "bundled-stranger": "bundled pair, a draft of which nothing is accepted",
}


def auto(found: Result) -> str:
    """The time of "auto" over the better of the target alone and the best fixed length."""
    rows = {row["setting"]: row for row in found["rows"]}
    known = [name for name in SETTINGS if name in rows]
    times = table(
        ["pair", "best fixed K", "its time over the target's", "auto over the better (95 %)"],
        [
            [
                SETTINGS[name],
                str(rows[name]["best_length"]),
                f"{rows[name]['fixed_over_target']:.2f}",
                f"{rows[name]['auto_over_better']:.3f} (at most {rows[name]['upper']:.3f})",
            ]
            for name in known
        ],
    )
    figures = found["figures"]
    batches = sorted({int(name.rsplit("_", 1)[1]) for name in figures if "_batches_" in name})
    throughput = table(
        ["throughput over the target's, requests at a time", *map(str, batches)],
        [
            [
                SETTINGS[pair],
                *(f"{figures[f'throughput_{pair}_batches_{batch}']:.2f}" for batch in batches),
            ]
            for pair in ("gguf", "bundled")
            if f"throughput_{pair}_batches_{batches[0]}" in figures
        ],
    )
    note = f"\n{found['note']}\n" if found.get("note") else ""
    return f"{times}\n{throughput}{note}"


def doctor(found: Result) -> str:
    """The forecasts of `stet doctor` beside what was measured afterwards."""
    rows = [
        [
            SETTINGS[row["pair"]],
            f"{row['examined_seconds']:.0f}",
            str(row["draft_length"]),
            f"{row['expected']:.2f} ({row['low']:.2f}-{row['high']:.2f})",
            f"{row['measured']:.2f}",
        ]
        for row in found["rows"]
    ]
    heading = ["pair", "seconds to examine", "advised K", "forecast (95 %)", "measured"]
    covered = sum(row["covered"] for row in found["rows"])
    return table(heading, rows) + f"\n{covered} of {len(rows)} intervals cover what was measured.\n"


def waits(found: Result) -> str:
    """Tokens per second with threads that wait awake, and with sleeping ones."""
    rows = [
        [row["machine"], *(f"{row[f'{way} {p}']:.1f}" for way in WAYS for p in POLICIES)]
        for row in found["rows"]
    ]
    return table(["", *(f"`{p}`, {way}" for way in WAYS for p in POLICIES)], rows)


WAYS, POLICIES = ("awake", "asleep"), ("target", "exact")

CHOICE_TABLES = {"auto": auto, "doctor": doctor, "waits": waits}
