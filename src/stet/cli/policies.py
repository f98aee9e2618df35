"""`stet policies`: the policies that decide which drafted tokens and steps are accepted."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any

from stet.cli.options import AsJson
from stet.cli.output import a_table, out, print_json

BASELINES = (
    ("target", True, "The target alone, one token per pass: the baseline of every speed-up."),
    ("draft", False, "The draft alone, unverified: its own accuracy and speed."),
)


def describe() -> list[dict[str, Any]]:
    """Every policy: name, lossless, summary, parameters with their defaults, and its module."""
    from stet.policies import available

    rows: list[dict[str, Any]] = [
        {"name": name, "lossless": lossless, "summary": summary, "parameters": {}, "module": "stet"}
        for name, lossless, summary in BASELINES
    ]
    for policy in available():
        parameters = {
            f.name: None if f.default is MISSING else f.default
            for f in fields(policy)  # type: ignore[arg-type]  # policies are dataclasses
            if f.compare
        }
        summary = (inspect.getdoc(policy) or "").split("\n\n")[0].replace("\n", " ")
        rows.append(
            {
                "name": policy.name,
                "lossless": policy.lossless,
                "summary": summary,
                "parameters": parameters,
                "module": policy.__module__,
            }
        )
    return rows


def command(as_json: AsJson = False) -> None:
    """List the verification policies: what each accepts, and its parameters.

    Choose one with `stet generate --policy NAME --param parameter=value`. Other
    packages add theirs through the entry-point group `stet.policies`.
    """
    rows = describe()
    if as_json:
        print_json(rows)
        return
    table = a_table("Verification policies", "policy", "lossless", "what it does", "parameters")
    for column in table.columns:
        column.justify = "left"
    table.columns[2].overflow = "fold"
    for row in rows:
        parameters = ", ".join(f"{name}={value!r}" for name, value in row["parameters"].items())
        lossless = "yes" if row["lossless"] else "no"
        table.add_row(row["name"], lossless, row["summary"], parameters or "none")
    out.print(table)
