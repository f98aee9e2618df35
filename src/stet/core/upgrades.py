"""Upgrades of records that earlier releases wrote to the names of this one."""

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
"""Fields and features, by their former names."""

_PARAMETERS = {"hold": "defers_bonus"}
_OURS = ("cospec", "autojudge")
"""Policies whose parameters were renamed; policies of other packages keep theirs."""

_BLOCK = {"kept": "accepted"}
_MISMATCH = {"stands": "accepted"}
_REASONS = {"overruled": "accepted_mismatch", "corrected": "recovered"}
_DECISIONS = {"kept": "accepted"}

_ANSWERS = "votes"
"""A field whose keys are answers of models, which are never renamed."""


def upgrade(record: Any) -> Any:
    """Rename the fields of a record, as parsed from JSON, to the names of this release."""
    if isinstance(record, list):
        return [upgrade(item) for item in record]
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
            parameters = upgrade_parameters(str(policy), record["parameters"])
            record = record | {"parameters": parameters}
    found = {
        names.get(key, key): value if key == _ANSWERS else upgrade(value)
        for key, value in record.items()
    }
    if isinstance(found.get("reason"), str):
        found["reason"] = _REASONS.get(found["reason"], found["reason"])
    if isinstance(found.get("decision"), str):
        found["decision"] = _DECISIONS.get(found["decision"], found["decision"])
    return found


def upgrade_parameters(policy: str, values: dict[str, Any]) -> dict[str, Any]:
    """Rename the parameters of a policy to the names of this release."""
    if policy not in _OURS:
        return dict(values)
    return {_PARAMETERS.get(name, name): value for name, value in values.items()}


def upgrade_trace(record: Any) -> Any:
    """Upgrade a trace of version 2, as parsed from JSON; other records are returned as they are."""
    if not (isinstance(record, dict) and record.get("version") == 2):
        return record
    return upgrade(record) | {"version": 3}
