"""What the page on integrations shows is what runs."""

import inspect
import re
import shlex
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
PARTS = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
TRANSFORMERS, LM_EVAL = PARTS
REASON = "needs the lm-evaluation-harness (400 MB): pip install 'stet-decoding[lm-eval]'"


def blocks(part, language):
    return re.findall(rf"```{language}\n(.*?)```", part, re.DOTALL)


def test_the_transformers_part_runs_as_printed(capsys):
    names: dict = {}
    first, second = blocks(TRANSFORMERS, "python")
    exec(first, names)
    said = capsys.readouterr().out
    assert "Sam has 34 pens." in said
    assert "Ann has 3 boxes." in said
    plain = names["model"].generate(**names["inputs"], max_new_tokens=40)
    assert names["sequences"].equal(plain)
    exec(second, names)
    settings = names["loop"].results[0].trace.settings
    assert settings.policy == {"name": "ensemble", "weight": 0.3, "space": "logprobs"}
    assert settings.draft_length["tokens"] == 6
    assert settings.sampling["temperature"] == 0.7


def test_the_page_lists_the_settings_that_are_honoured():
    from stet.integrations.generation_settings import _SUPPORTED

    sentence = re.search(r"are honoured: (.*?)\. Any other", TRANSFORMERS)[1]
    assert set(re.findall(r"`(\w+)`", sentence)) == _SUPPORTED | {"sequences"}


def test_the_lm_eval_part_runs_as_printed(monkeypatch, capsys):
    lm_eval = pytest.importorskip("lm_eval", reason=REASON)
    from stet.integrations.lm_eval import StetLM

    def evaluate(model, *, tasks, limit):
        assert isinstance(model, StetLM)
        assert (tasks, limit) == (["gsm8k"], 100)
        return {"results": {"gsm8k": 0.5}, "config": model.get_model_info()}

    monkeypatch.setattr(lm_eval, "simple_evaluate", evaluate)
    (code,) = blocks(LM_EVAL, "python")
    exec(code, {})
    assert capsys.readouterr().out.startswith("0.5 ")


def test_the_command_line_is_one_that_the_harness_understands(monkeypatch):
    pytest.importorskip("lm_eval", reason=REASON)
    from lm_eval._cli import HarnessCLI
    from lm_eval.api.registry import get_model

    from stet.integrations.lm_eval import StetLM

    (command,) = blocks(LM_EVAL, "sh")
    python, m, module, *arguments = shlex.split(command.replace("\\\n", " "))
    assert (python, m, module) == ("python", "-m", "stet.integrations.lm_eval")
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
    parsed = HarnessCLI().parse_args()
    assert get_model(parsed.model) is StetLM
    known = set(inspect.signature(StetLM).parameters)
    assert parsed.model_args.keys() == {"target", "draft", "policy"} <= known
    table = re.search(r"\| `--model_args`.*?\n\n", LM_EVAL, re.DOTALL)[0]
    first_column = "".join(row.split("|")[1] for row in table.splitlines()[2:] if row)
    documented = set(re.findall(r"`(\w+)`", first_column))
    elsewhere = {"batch_size", "max_batch_size", "pair", "parameters"}
    assert documented == known - elsewhere
