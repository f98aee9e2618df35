import json

import pytest

from stet.policies import Exact

ANSWER = "Six times seven is 42."


def test_one_prompt_streams_to_stdout_and_sums_up_on_stderr(run, pair):
    result = run("generate", "What is six times seven?", "--target", "a", "--draft", "b")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ANSWER + "\n"
    assert "6 tokens in" in result.stderr
    assert "4 of 4 drafted tokens kept (100%)" in result.stderr
    assert pair.calls[0][0] == ["What is six times seven?"]


def test_quiet_leaves_stderr_alone(run, pair):
    assert run("generate", "hello", "--quiet").stderr == ""


def test_options_reach_the_pair(run, pair):
    run(
        *("generate", "hello", "-n", 7, "--temperature", 0.5, "--top-k", 3, "--top-p", 0.9),
        *("--min-p", 0.1, "--repetition-penalty", 1.2, "--logit-bias", "5=-1.5", "--seed", 4),
        *("--stop", "x", "--stop", "y", "--stop-token-id", 9, "--timeout", 2, "--logprobs", 2),
        *("--draft-length", 6, "--policy", "block"),
    )
    _, policy, options = pair.calls[0]
    assert policy == "block"
    assert options == {
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "logit_bias": {5: -1.5},
        "seed": 4,
        "stop": ("x", "y"),
        "stop_token_ids": (9,),
        "logprobs": 2,
        "timeout": 2.0,
        "draft_length": 6,
    }


def test_every_option_is_one_that_the_pair_knows(run, pair):
    from stet.options import Options

    run("generate", "hello")
    assert set(pair.calls[0][2]) <= set(Options.__annotations__)


def test_model_options_reach_the_loader(run, loader):
    run(
        *("generate", "hello", "-t", "big", "-d", "small", "--dtype", "float32"),
        *("--device", "cpu", "--revision", "r1", "--draft-revision", "r2"),
        *("--trust-remote-code", "--no-self-check", "--max-length", 99, "--no-compile"),
    )
    assert loader.arguments == {
        "target": "big",
        "draft": "small",
        "dtype": "float32",
        "device": "cpu",
        "revision": "r1",
        "draft_revision": "r2",
        "trust_remote_code": True,
        "self_check": False,
        "max_length": 99,
        "max_batch": 1,
        "max_rows": 1,
        "compile": False,
    }


def test_there_is_room_for_the_candidates_of_a_policy(run, loader):
    run("generate", "hello", "--policy", "specguard.paper", "--no-chat")
    assert loader.arguments["max_rows"] == 17


def test_the_bundled_pair_is_asked_in_its_chat_template(run, pair):
    run("generate", "hello")
    run("generate", "hello", "--no-chat")
    run("generate", "hello", "--target", "a", "--draft", "b")
    run("generate", "hello", "--target", "a", "--draft", "b", "--chat")
    asked = [prompts for prompts, _, _ in pair.calls]
    assert asked == [["<user>hello"], ["hello"], ["hello"], ["<user>hello"]]


def test_reads_the_prompt_from_a_pipe(run, pair):
    run("generate", "--no-chat", stdin="first line\nsecond line\n")
    run("generate", "-", "--no-chat", stdin="x\n")
    assert [prompts for prompts, _, _ in pair.calls] == [["first line\nsecond line"], ["x"]]


def test_a_file_of_lines(run, pair, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\n{two}\n")
    result = run("generate", "--file", file, "--no-chat")
    assert pair.calls[0][0] == ["one", "{two}"]
    assert result.stdout == f"one\n{ANSWER}\n\n{{two}}\n{ANSWER}\n\n"


def test_a_jsonl_file_gives_jsonl_in_its_order(run, pair, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n{"prompt": "two", "id": 3}\n')
    pair.backwards = True
    result = run("generate", "--file", file, "--no-chat", "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["prompt"] for record in records] == ["one", "two"]
    assert records[0]["text"] == ANSWER
    assert records[0]["finish_reason"] == "stop"
    assert records[0]["counters"]["acceptance_rate"] == 1.0
    assert records[0]["counters"]["tokens_per_pass"] == 3.0
    assert "tokens" not in records[0]


def test_json_with_origin_has_a_record_per_token(run, pair):
    (record,) = [
        json.loads(line)
        for line in run("generate", "hello", "--json", "--show-origin").stdout.splitlines()
    ]
    assert [token["origin"] for token in record["tokens"]][:3] == ["draft", "draft", "target"]
    assert record["tokens"][2]["reason"] == "corrected"


def test_origin_without_styles_is_marked_by_brackets(run, pair):
    result = run("generate", "hello", "--show-origin")
    assert result.stdout == "Six times[[ seven]] is 42[[.]]\n"
    assert "[[written by the target]]" in result.stderr


def test_a_policy_with_parameters_is_built(run, pair, monkeypatch):
    seen = {}

    def resolve(name, parameters):
        seen.update(parameters)
        return Exact()

    monkeypatch.setattr("stet.policies.resolve", resolve)
    run("generate", "hello", "--param", "k=3", "--param", "name=abc", "--param", "on=true")
    assert seen == {"k": 3, "name": "abc", "on": True}
    assert pair.calls[0][1] == Exact()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["hello", "--file", "x"], "not both"),
        ([""], "empty"),
        (["hello", "--param", "k"], "name=value"),
        (["hello", "--policy", "exact", "--param", "k=3"], "no parameter"),
        (["hello", "--policy", "nothing", "--param", "k=3"], "no policy"),
        (["hello", "--logit-bias", "a=b"], "token id and a number"),
        (["hello", "--draft-length", "long"], "auto"),
        (["--file", "missing.txt"], "missing.txt"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(run, loader, arguments, told):
    result = run("generate", *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert not loader.arguments


@pytest.mark.parametrize(
    ("line", "told"),
    [("hello", "not JSON"), ('{"text": "x"}', "prompt"), ('{"prompt": 3}', "prompt")],
)
def test_a_bad_line_is_named(run, loader, tmp_path, line, told):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line + "\n")
    result = run("generate", "--file", file)
    assert result.exit_code == 2
    assert "line 2" in " ".join(result.stderr.split())
    assert told in result.stderr


def test_a_failed_request_is_told_and_the_others_are_written(run, pair, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\nthree\n")
    pair.fail = "two"
    result = run("generate", "--file", file, "--no-chat", "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["error"] for record in records] == [None, "The cache is full.", None]
    assert "Prompt 2: The cache is full." in result.stderr
    assert result.exit_code == 1


def test_ctrl_c_leaves_what_was_written(run, pair, tmp_path):
    file, trace = tmp_path / "prompts.txt", tmp_path / "trace.jsonl"
    file.write_text("one\ntwo\nthree\n")
    pair.interrupt = "two"
    result = run("generate", "--file", file, "--no-chat", "--json", "--trace", trace)
    assert result.exit_code == 130
    (record,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert record["prompt"] == "one"
    assert len(trace.read_text().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_ctrl_c_while_streaming(run, pair):
    pair.interrupt = "hello"
    result = run("generate", "hello", "--no-chat")
    assert result.exit_code == 130
    assert result.stdout == "Six times seven\n"


def test_the_trace_is_written_and_read_back(run, pair, tmp_path):
    from stet import trace

    file = tmp_path / "trace.jsonl"
    run("generate", "hello", "--no-chat", "--trace", file)
    run("generate", "again", "--no-chat", "--trace", file)
    assert [record.prompt for record in trace.read(file)] == ["hello", "again"]


def test_a_trace_that_cannot_be_written_is_an_error(run, pair, tmp_path):
    result = run("generate", "hello", "--trace", tmp_path / "no" / "trace.jsonl")
    assert result.exit_code == 2
    assert "cannot be written" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("size", "chosen", "threads"), [(10**6, None, [1]), (10**6, "2", []), (10**9, None, [])]
)
def test_small_models_run_on_one_thread(run, pair, monkeypatch, size, chosen, threads):
    import torch

    if chosen is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    pair.target.parameter_bytes = size
    run("generate", "a prompt", "--json")
    assert asked == threads
