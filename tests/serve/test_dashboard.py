"""The dashboard asks for metrics that there are, with labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from served import MODEL, PROMPT, Served

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"
NAME = re.compile(r"\b((?:vllm|stet):[a-z0-9_]+)")


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.fixture(scope="module")
def shown(served: Served) -> str:
    """What the server shows once it has answered requests of all kinds."""
    for policy in ("exact", "specguard", "cospec"):
        for stream in (False, True):
            body = {"model": f"stet/{policy}", "prompt": PROMPT, "max_tokens": 60, "stream": stream}
            assert served.post("/v1/completions", body).status_code == 200
    served.post("/v1/completions", {"model": MODEL, "prompt": "word " * 3000})
    return served.get("/metrics").text


@pytest.mark.parametrize("expression", expressions())
def test_its_metrics_are_there(shown: str, expression: str) -> None:
    # Some have no value yet: drift says nothing of a few answers.
    known = {*re.findall(r"^(?:# TYPE )?([a-z]+:[a-z0-9_]+)(?:\{| )", shown, re.MULTILINE)}
    names = NAME.findall(expression)
    assert names
    assert {*names} <= known


@pytest.mark.parametrize("expression", expressions())
def test_it_groups_by_labels_that_are_there(shown: str, expression: str) -> None:
    labels = {*re.findall(r'[{,]([a-z_]+)="', shown)}
    for group in re.findall(r"by \(([a-z_, ]+)\)", expression):
        assert {name.strip() for name in group.split(",")} <= labels
