"""What two runs must have in common, wherever they were worked on."""

import json

from stet.evaluation import records

OWN = ("seconds", "chunk_seconds", "target_seconds", "draft_seconds", "machine", "request")
"""Times and who it was; requests are counted by each pair."""


def plain(record):
    """A record without what differs from run to run."""
    if isinstance(record, list):
        return [plain(item) for item in record]
    if isinstance(record, dict):
        return {k: plain(v) for k, v in record.items() if k not in OWN}
    return record


def content(folder):
    """The bytes of a run's records, in an order of their own and without times."""
    found = {}
    for name in (records.ANSWERS, records.TRACES):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        found[name] = sorted(json.dumps(plain(line)) for line in lines)
    run = json.loads((folder / records.RUN).read_text())
    found[records.RUN] = {k: v for k, v in run.items() if k not in ("date", "command")}
    return found
