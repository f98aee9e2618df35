"""Records that earlier releases wrote, in the words of this one."""

from __future__ import annotations

from typing import Any

NAMES = {
    "kept_tokens": "accepted_tokens",
    "kept_steps": "accepted_steps",
    "kept_per_position": "accepted_per_position",
    "disputes": "mismatches",
    "overruled": "accepted_mismatches",
    "overruled_in_block": "accepted_mismatches_in_block",
    "yardstick": "label_source",
}
"""Fields and features by their former names."""

_PARAMETERS = {"hold": "defers_bonus"}
_OURS = ("cospec", "autojudge")
"""Policies whose parameters had other names; those of other packages keep theirs."""

_BLOCK = {"kept": "accepted"}
_MISMATCH = {"stands": "accepted"}
_REASONS = {"overruled": "accepted_mismatch", "corrected": "recovered"}
_DECISIONS = {"kept": "accepted"}

_ANSWERS = "votes"
"""A field whose keys are answers of models; whatever they read is no name."""


def upgraded(record: Any) -> Any:
    """A record, as JSON has it, with every name as this release has it; others stay as they are."""
    if isinstance(record, list):
        return [upgraded(item) for item in record]
    if not isinstance(record, dict):
        return record
    names = NAMES
    if "drafted" in record:
        names = names | _BLOCK
    if "score" in record and "draft" in record:
        names = names | _MISMATCH
    policy = record.get("name", record.get("policy"))
    if policy in _OURS:
        names = names | _PARAMETERS
        if isinstance(record.get("parameters"), dict):
            parameters = upgraded_parameters(str(policy), record["parameters"])
            record = record | {"parameters": parameters}
    found = {
        names.get(key, key): value if key == _ANSWERS else upgraded(value)
        for key, value in record.items()
    }
    if isinstance(found.get("reason"), str):
        found["reason"] = _REASONS.get(found["reason"], found["reason"])
    if isinstance(found.get("decision"), str):
        found["decision"] = _DECISIONS.get(found["decision"], found["decision"])
    return found


def upgraded_parameters(policy: str, values: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a policy by the names that they have now."""
    if policy not in _OURS:
        return dict(values)
    return {_PARAMETERS.get(name, name): value for name, value in values.items()}


def upgraded_trace(record: Any) -> Any:
    """A trace, as JSON has it, in the words of this release; one of version 2 says so."""
    if not (isinstance(record, dict) and record.get("version") == 2):
        return record
    return upgraded(record) | {"version": 3}
