"""What a comparison can be asked to compare, and how it is written."""

import json

import pytest

from stet.core.errors import OptionError
from stet.evaluation.contenders import baselines, contender, defaults, distinct, parse, read_file
from stet.policies import Ensemble, available


def labels(contenders):
    return [c.label for c in contenders]


def test_a_name_alone_has_its_defaults():
    (item,) = parse("ensemble")
    assert item.policy == Ensemble()
    assert item.entry.parameters == {"weight": 0.5, "space": "logprobs"}
    assert (item.label, item.entry.lossless, item.samples) == ("ensemble", False, 1)


def test_parameters_that_are_not_defaults_are_part_of_the_label():
    (item,) = parse("ensemble: weight=0.3, space=probs")
    assert item.policy == Ensemble(0.3, "probs")
    assert item.label == "ensemble (weight=0.3, space=probs)"


def test_several_values_are_tried_one_by_one():
    made = parse("ensemble:weight=0.3|0.7,space=logprobs|probs")
    assert [c.policy for c in made] == [
        Ensemble(w, s) for w in (0.3, 0.7) for s in ("logprobs", "probs")
    ]
    assert len(set(labels(made))) == 4


def test_a_majority_is_of_samples():
    (item,) = parse("majority:of=draft,k=3")
    assert (item.policy, item.samples, item.label) == ("draft", 3, "majority of draft (k=3)")
    assert item.options == {"temperature": 0.7, "top_p": 1.0}
    assert parse("majority:of=ensemble")[0].policy == Ensemble()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("exakt", "no policy 'exakt'"),
        ("ensemble:wait=1", "no parameter 'wait'"),
        ("ensemble:weight", "'weight' is not of the form"),
        ("ensemble:=1", "'=1' is not of the form"),
        ("ensemble:weight=2", "between 0 and 1"),
        ("target:k=3", "has no parameters"),
        ("majority:n=3", "it has: of, k, temperature, top_p"),
        ("majority:k=1", "at least 2"),
        ("majority:temperature=0", "above 0"),
        ("majority:of=nobody", "no policy 'nobody'"),
        ("nowhere.json", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(text, sentence):
    with pytest.raises(OptionError, match=sentence):
        parse(text)


TOML = """
[[policy]]
name = "ensemble"
label = "mean"
parameters = { space = "probs" }
sweep = { weight = [0.2, 0.4] }
options = { draft_length = 4 }

[[policy]]
name = "exact"
"""

YAML = """
policy:
  - name: ensemble
    label: mean
    parameters: {space: probs}
    sweep: {weight: [0.2, 0.4]}
    options: {draft_length: 4}
  - name: exact
"""


@pytest.mark.parametrize(("name", "text"), [("p.toml", TOML), ("p.yaml", YAML)])
def test_a_file_lists_policies_with_labels_and_options(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    made = read_file(path)
    assert labels(made) == ["mean (weight=0.2)", "mean (weight=0.4)", "exact"]
    assert made[1].policy == Ensemble(0.4, "probs")
    assert made[1].options == made[1].entry.options == {"draft_length": 4}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("p.toml", "policy = 3", "no list under `policy`"),
        ("p.toml", "policy = [", "not TOML"),
        ("p.yaml", "policy: [", "not YAML"),
        ("p.yaml", "policy: [{label: x}]", "needs a `name`"),
        ("p.yaml", "policy: [{name: exact, weight: 1}]", "'exact' has 'weight'"),
        ("p.yaml", "!!python/object/apply:os.system [true]", "not YAML"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, name, text, sentence):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(OptionError, match=sentence):
        read_file(path)


def test_a_calibrated_policy_is_named_by_its_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"policy": "ensemble", "parameters": {"weight": 0.25}}))
    assert parse(str(path))[0].policy == Ensemble(0.25)
    assert parse(f"{path}:space=probs")[0].policy == Ensemble(0.25, "probs")
    path.write_text("[]")
    with pytest.raises(OptionError, match="holds no policy"):
        parse(str(path))


def test_the_default_is_everything_that_needs_no_settings():
    names = labels(defaults(graded=True, has_draft=True))
    assert names[:3] == ["target", "draft", "exact"]
    # The bundled target cannot answer questions; the random arbiter is a control; the shipped
    # rewards and arbiters are for the bundled pair.
    left_out = {"spec-reason", "random"}
    assert set(names) >= {p.name for p in available()} - left_out
    assert not left_out & set(names)
    elsewhere = labels(defaults(graded=True, has_draft=True, bundled=False))
    assert "spec-reason" in elsewhere
    assert not {"reward-guided", "cospec", "autojudge"} & set(elsewhere)
    assert names[-2:] == ["majority of target", "majority of draft"]
    half = labels(defaults(graded=True, has_draft=True, fitted=False))
    assert set(names) - set(half) == set(names) - set(elsewhere)
    assert not any("majority" in n for n in labels(defaults(graded=False, has_draft=True)))
    assert labels(defaults(graded=True, has_draft=False)) == [
        "target",
        "exact",
        "block",
        "fly",
        "top-k",
        "typical",
        "majority of target",
    ]


def test_plain_rules_stand_beside_and_nothing_twice():
    plain = baselines(has_draft=True)
    assert labels(plain) == ["target", "draft", "exact", "ensemble", "confident"]
    assert labels(distinct([*plain, *parse("ensemble:weight=0.5|0.3")])) == [
        *labels(plain),
        "ensemble (weight=0.3)",
    ]
    with pytest.raises(OptionError, match="Two policies have the label 'exact'"):
        distinct([contender("exact"), contender("block", label="exact")])
