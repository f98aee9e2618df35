"""Every request chooses its policy, as far as the operator allows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import openai
import pytest

import stet
from served import CHAT, MODEL, PROMPT, Served, serving
from stet.core.errors import OptionError, StetError
from stet.policies import SpecGuard, TopK
from stet.serve.policies import PolicyDesk
from stet.serve.settings import ServeSettings


def ask(served: Served, **body) -> dict:
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    return served.post("/v1/completions", request | body).json()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("exact", {}),
        ("target", {}),
        ("draft", {}),
        ("top-k", {"k": 5, "delta": 0.9}),
        ("cospec", {"threshold": 0.3}),
        ("specguard", {"threshold": 0.2}),
        ("specguard.paper", {}),
        ("cascade", {"statistic": "min"}),
    ],
)
def test_a_policy_by_its_name(served: Served, name: str, values: dict) -> None:
    found = ask(served, speculation={"policy": name, "metrics": "summary", **values}, seed=0)
    mine = served.pair.generate(
        PROMPT, name, max_new_tokens=40, policy_parameters=values or None, seed=0
    )
    assert found["choices"][0]["text"] == mine.text
    assert found["metrics"]["stet"]["policy"] == mine.settings.policy["name"]
    by_model = ask(served, model=f"stet/{name}", seed=0, speculation={**values})
    assert by_model["choices"][0]["text"] == mine.text


def test_the_official_client_chooses(client: openai.OpenAI, served: Served) -> None:
    found = client.chat.completions.create(
        model=MODEL,
        messages=CHAT,
        temperature=0,
        extra_body={"speculation": {"policy": "specguard", "threshold": 0.6}},
    )
    mine = served.pair.generate(CHAT, "specguard", policy_parameters={"threshold": 0.6})
    assert found.choices[0].message.content == mine.text


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == MODEL
    assert {"stet/exact", "stet/cospec", "stet/specguard.paper", "stet/target"} <= {*names}
    assert client.models.retrieve("stet/cospec").id == "stet/cospec"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_policies_are_described(served: Served) -> None:
    found = served.get("/v1/policies").json()
    entries = {entry["name"]: entry for entry in found["policies"]}
    assert entries["specguard"]["kind"] == "step"
    assert entries["exact"]["lossless"]
    parameters = {p["name"]: p for p in entries["specguard"]["parameters"]}
    assert parameters["threshold"]["default"] == SpecGuard().threshold
    assert parameters["threshold"]["summary"]
    assert "head" not in parameters  # names files
    assert "inner" not in parameters
    words = {p["name"]: p for p in entries["cascade"]["parameters"]}["statistic"]
    assert words["schema"]["enum"] == ["mean", "min"]


@pytest.mark.parametrize(
    ("speculation", "words"),
    [
        ({"policy": "nope"}, "There is no policy 'nope'"),
        ({"policy": "specguard", "treshold": 1}, "'treshold'.* does not exist"),
        ({"policy": "specguard", "threshold": "high"}, "threshold: .*number"),
        ({"policy": "specguard", "candidates": 1000, "temperature": 0.7}, "rows"),
        ({"policy": "specguard", "candidates": 1.5}, "candidates"),
        ({"policy": "cospec", "arbiter": "/etc/passwd"}, "set by the server's operator"),
        ({"policy": "reward-guided", "reward": "evil/model"}, "set by the server's operator"),
        ({"policy": "specguard", "head": "../../x"}, "set by the server's operator"),
        ({"policy": "cascade", "statistic": "median"}, "statistic"),
        ({"policy": "target", "k": 1}, "no parameters"),
        ({"policy": "/tmp/policy.json"}, "There is no policy"),
        ({"policy": "top-k", "k": -3}, "k"),
        ({"policy": "exact", "draft_length": 10**6}, "draft_length"),
        ({"policy": "exact", "draft_length": 0}, "draft_length"),
        ({"metrics": "everything"}, "metrics"),
        ({"policy": "typical", "epsilon": {"a": 1}}, "epsilon"),
    ],
)
def test_what_cannot_be_chosen(served: Served, speculation: dict, words: str) -> None:
    found = ask(served, speculation=speculation)
    assert found["error"]["type"] == "invalid_request_error"
    assert re.search(words, found["error"]["message"]), found["error"]["message"]


def test_logprobs_need_a_target_that_reads(served: Served) -> None:
    found = ask(served, logprobs=1, speculation={"policy": "specguard"})
    assert "does not read every token" in found["error"]["message"]


def test_levels(served: Served) -> None:
    assert "metrics" not in ask(served)
    summary = ask(served, speculation={"metrics": "summary"})["metrics"]
    assert summary["speculative_decoding"].keys() == {
        "mean_acceptance_length",
        "draft_acceptance_rate",
        "acceptance_histogram",
        "num_spec_steps",
        "num_accepted_draft_tokens",
        "num_draft_tokens",
    }
    detailed = ask(served, speculation={"metrics": "detailed"})
    counts = detailed["metrics"]["speculative_decoding"]
    assert sum(counts["per_step_accepted"]) == counts["num_accepted_draft_tokens"]
    choice = detailed["choices"][0]
    tokens = choice["speculation"]["tokens"]
    assert len(tokens) == detailed["usage"]["completion_tokens"]
    assert {token["origin"] for token in tokens} == {"draft", "target"}
    assert all(0 <= token["p_target"] <= 1 for token in tokens)
    assert "trace" not in choice["speculation"]
    block = choice["speculation"]["blocks"][0]
    assert len(block["drafted_text"]) == len(block["drafted"])
    traced = ask(served, speculation={"metrics": "trace"})["choices"][0]["speculation"]
    schema = Path(stet.__file__).parent / "core/trace.schema.json"
    jsonschema.validate(traced["trace"], json.loads(schema.read_text()))


@pytest.mark.parametrize("policy", ["exact", "specguard.paper"])
def test_a_detailed_stream_is_whole(served: Served, policy: str) -> None:
    body = {
        "model": MODEL,
        "prompt": PROMPT,
        "max_tokens": 60,
        "temperature": 0,
        "stream": True,
        "seed": 1,
        "speculation": {"policy": policy, "metrics": "trace"},
    }
    lines = served.post("/v1/completions", body).text.split("\n\n")
    found = [json.loads(line[6:])["choices"][0]["speculation"] for line in lines if "{" in line]
    trace = found[-1]["trace"]
    tokens = [token for part in found for token in part["tokens"]]
    assert [t["id"] for t in tokens] == [t["id"] for t in trace["tokens"]]
    steps = [step for part in found for step in part["steps"]]
    assert steps == trace["steps"]
    blocks = [block for part in found for block in part["blocks"]]
    assert [b["drafted"] for b in blocks] == [b["drafted"] for b in trace["blocks"]]
    assert [p["elapsed"] for p in found] == sorted(p["elapsed"] for p in found)


def test_only_lossless_ones_unless_allowed(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL)) as served:
        entries = served.get("/v1/policies").json()["policies"]
        names = [entry["name"] for entry in entries if entry["allowed"]]
        assert {*names} == {"exact", "block", "target"}
        assert {"specguard", "cospec"} <= {entry["name"] for entry in entries}
        refused = served.post(
            "/v1/completions",
            {"model": MODEL, "prompt": PROMPT, "speculation": {"policy": "specguard"}},
        )
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "policy_not_allowed"
        by_model = served.post("/v1/completions", {"model": "stet/cospec", "prompt": PROMPT})
        assert by_model.status_code == 403


def test_the_operators_own_policies(pair) -> None:
    settings = ServeSettings(
        model=MODEL,
        default="loose",
        named={"loose": TopK(k=9, delta=1.0)},
        lossless=False,
        allow=("exact",),
    )
    with serving(pair, settings) as served:
        mine = pair.generate(PROMPT, TopK(k=9, delta=1.0), max_new_tokens=40)
        assert ask(served)["choices"][0]["text"] == mine.text
        exact = ask(served, speculation={"policy": "exact"})["choices"][0]["text"]
        assert exact == pair.generate(PROMPT, max_new_tokens=40).text
        assert ask(served, speculation={"policy": "block"})["error"]["code"] == "policy_not_allowed"


def test_a_mistake_of_the_operator_shows_at_once(pair) -> None:
    with pytest.raises(OptionError, match="nope"):
        PolicyDesk(ServeSettings(default="nope"), pair)
    with pytest.raises(OptionError, match="nope"):
        PolicyDesk(ServeSettings(allow=("nope",)), pair)
    with pytest.raises(StetError, match="rows"):
        PolicyDesk(ServeSettings(named={"many": SpecGuard(candidates=1000, temperature=0.7)}), pair)
