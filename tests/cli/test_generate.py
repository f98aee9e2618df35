import io
import json
import sys

import pytest

from stet.policies import Exact

ANSWER = "Six times seven is 42."


def test_one_prompt_streams_to_stdout_and_sums_up_on_stderr(run, pair):
    result = run("generate", "What is six times seven?", "--target", "a", "--draft", "b")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ANSWER + "\n"
    assert "6 tokens in" in result.stderr
    assert "4 of 4 drafted tokens accepted (100%)" in result.stderr
    assert pair.calls[0][0] == ["<user>What is six times seven?"]


def test_quiet_leaves_stderr_alone(run, pair):
    assert run("generate", "hello", "--quiet").stderr == ""


def test_options_reach_the_pair(run, pair):
    run(
        *("generate", "hello", "-n", 7, "--temperature", 0.5, "--top-k", 3, "--top-p", 0.9),
        *("--min-p", 0.1, "--repetition-penalty", 1.2, "--logit-bias", "5=-1.5", "--seed", 4),
        *("--frequency-penalty", 0.3, "--presence-penalty", -0.4),
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
        "frequency_penalty": 0.3,
        "presence_penalty": -0.4,
        "logit_bias": {5: -1.5},
        "seed": 4,
        "stop": ("x", "y"),
        "stop_token_ids": (9,),
        "logprobs": 2,
        "timeout": 2.0,
        "draft_length": 6,
    }


def test_every_option_is_one_that_the_pair_knows(run, pair):
    from stet.requests.options import Options

    run("generate", "hello")
    assert set(pair.calls[0][2]) <= set(Options.__annotations__)


def test_model_options_reach_the_loader(run, loader):
    run(
        *("generate", "hello", "-t", "big", "-d", "small", "--dtype", "float32"),
        *("--device", "cpu", "--revision", "r1", "--draft-revision", "r2"),
        *(
            "--trust-remote-code",
            "--no-self-check",
            "--max-length",
            99,
            "--no-compile",
            "--no-packed",
        ),
        *("--quantize", "int8", "--draft-quantize", "none", "--cache-memory", "2GB"),
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
        "packed": False,
        "quantize": "int8",
        "draft_quantize": "none",
        "max_length": 99,
        "cache_memory": "2GB",
        "prefix_caching": False,
        "max_batch": 1,
        "max_rows": 1,
        "compile": False,
    }


def test_there_is_room_for_the_candidates_of_a_policy(run, loader):
    run("generate", "hello", "--policy", "specguard.paper", "--no-chat")
    assert loader.arguments["max_rows"] == 17


def test_a_model_with_a_chat_template_is_asked_in_it(run, pair):
    models = ("--target", "a", "--draft", "b")
    said = [run("generate", "hello", *more) for more in ((), ("--no-chat",), models)]
    asked = [prompts for prompts, _, _ in pair.calls]
    assert asked == [["<user>hello"], ["hello"], ["<user>hello"]]
    told = ["the chat template of big" in result.stderr for result in said]
    assert told == [True, False, True]
    assert all("chat" not in result.stdout for result in said)
    assert run("generate", "hello", "--quiet").stderr == ""


def test_a_model_without_one_is_asked_as_it_is(run, pair):
    pair.tokenizer = object()
    result = run("generate", "hello", "--target", "a", "--draft", "b")
    assert pair.calls[0][0] == ["hello"]
    assert "template" not in result.stderr


def test_system_prompt_and_arguments_reach_the_template(run, pair):
    arguments = ("--template-arg", "enable_thinking=false", "--template-arg", "mode=short")
    result = run("generate", "hello", "--system", "Be brief.", *arguments)
    assert result.exit_code == 0, result.stderr
    assert pair.calls[0][0] == ["<system>Be brief.<user>hello"]
    assert pair.arguments == {"enable_thinking": False, "mode": "short"}
    refused = run("generate", "hello", "--system", "Be brief.", "--no-chat")
    assert refused.exit_code == 2
    assert "drop --no-chat" in refused.stderr
    refused = run("generate", "hello", "--template-arg", "enable_thinking")
    assert "not of the form name=value" in refused.stderr


def test_a_drawn_seed_is_reported(run, pair):
    assert "--seed 0" in run("generate", "hello", "--temperature", 1).stderr
    assert pair.calls[0][2]["seed"] is None
    assert "--seed" not in run("generate", "hello", "--temperature", 1, "--seed", 3).stderr
    assert "--seed" not in run("generate", "hello").stderr


def test_the_default_length_is_left_to_what_fits(run, pair):
    run("generate", "hello")
    assert pair.calls[0][2]["max_new_tokens"] is None


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
    assert record["tokens"][2]["reason"] == "recovered"


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
    from stet.core import trace

    file = tmp_path / "trace.jsonl"
    run("generate", "hello", "--no-chat", "--trace", file)
    run("generate", "again", "--no-chat", "--trace", file)
    assert [record.prompt for record in trace.read(file)] == ["hello", "again"]


@pytest.mark.parametrize("place", ["no/trace.jsonl", ".", "/proc/trace.jsonl", "torn.jsonl"])
def test_a_trace_that_cannot_be_written_is_told_before_anything_is_loaded(
    run, loader, tmp_path, place
):
    (tmp_path / "torn.jsonl").write_text('{"request": ')
    result = run("generate", "hello", "--trace", tmp_path / place)
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert ("ends inside a line" if "torn" in place else "cannot be written") in told
    assert not loader.arguments
    assert (tmp_path / "torn.jsonl").read_text() == '{"request": '


@pytest.mark.parametrize("count", [1, 3])
def test_a_trace_on_a_full_disk_is_an_error_of_the_command(run, pair, tmp_path, count):
    file = tmp_path / "prompts.txt"
    file.write_text("one\n" * count)
    result = run("generate", "--file", file, "--no-chat", "--trace", "/dev/full")
    assert result.exit_code == 2
    assert "/dev/full cannot be written (No space left" in " ".join(result.stderr.split())
    assert ANSWER in result.stdout


class Full(io.StringIO):
    """A stdout with room for so many characters, or whose reader leaves then."""

    def __init__(self, room, error):
        super().__init__()
        self.room, self.error = room, error

    def write(self, text):
        if self.tell() + len(text) > self.room:
            raise self.error
        return super().write(text)


@pytest.fixture
def run_into(monkeypatch, pair):
    """Run `stet` with a stdout of one's own; gives the exit code and what stderr was told."""
    from typer.main import get_command

    from stet.cli import app
    from stet.cli.output import err, out

    def run_into(stdout, *arguments, stderr=None):
        told = stderr or io.StringIO()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stdout)
            patched.setattr(sys, "stderr", told)
            with pytest.raises(SystemExit) as ended:
                get_command(app)([str(a) for a in arguments], prog_name="stet")
        for console in (out, err):  # a process would have ended with what could not be written
            console._buffer.clear()
        return ended.value.code, " ".join(told.getvalue().split())

    return run_into


@pytest.mark.parametrize("options", [[], ["--json"], ["--show-origin"]])
@pytest.mark.parametrize("name", ["", "prompts.txt"])
@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(28, "No space left on device"), 2, "stdout (No space left on device)"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_a_stdout_that_takes_no_more(run_into, tmp_path, options, name, error, code, told):
    prompt = ["hello"]
    if name:
        (tmp_path / name).write_text("one\ntwo\nthree\n")
        prompt = ["--file", tmp_path / name]
    ended = run_into(Full(10, error), "generate", *prompt, "--no-chat", "--quiet", *options)
    assert ended[0] == code
    assert told in ended[1]
    assert "Traceback" not in ended[1]
    assert told or "Error" not in ended[1]


def test_a_failing_callback_leaves_a_real_engine(tmp_path, run_into, monkeypatch):
    """The engine takes a callback's exception for the request's own; this one is not."""
    import stet
    from stet.bundled import DRAFT, TARGET
    from stet.load import load_pair

    def load(*_, **__):
        return load_pair(TARGET, DRAFT, compile=False, max_batch=3)

    monkeypatch.setitem(stet.__dict__, "load_pair", load)
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    arguments = ("generate", "--file", tmp_path / "prompts.txt", "-n", 8, "-k", 4, "--json")
    code, told = run_into(Full(10, OSError(28, "No space left on device")), *arguments)
    assert (code, "No space left on device" in told) == (2, True)
    everything = Full(10**9, None)
    assert run_into(everything, *arguments)[0] == 0
    assert everything.getvalue().count("\n") == 3
    # Where it is the last answer that does not fit, no other write fails after it.
    almost = Full(everything.getvalue().index('"three"') + 100, OSError(28, "No space left"))
    code, told = run_into(almost, *arguments)
    assert (code, "No space left" in told) == (2, True)
    assert almost.getvalue().count("\n") == 2


def test_what_could_not_be_written_is_not_generated(run_into, pair, tmp_path, monkeypatch):
    seen, generate = [], pair.generate

    def listen(*given, on_progress, **options):
        def told(result):
            seen.append(result.prompt)
            on_progress(result)

        return generate(*given, on_progress=told, **options)

    monkeypatch.setattr(pair, "generate", listen)
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    full = Full(10, OSError(28, "No space left on device"))
    arguments = ("generate", "--file", tmp_path / "prompts.txt", "--no-chat", "--json")
    assert run_into(full, *arguments)[0] == 2
    assert seen == ["one"]


def test_a_closed_stdout_is_told_before_anything_is_loaded(run_into, loader):
    code, told = run_into(None, "generate", "hello")
    assert (code, "stdout is closed" in told) == (2, True)
    assert not loader.arguments


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "Full")])
def test_a_failing_stderr_costs_no_answer(run_into, pair, error):
    stdout = io.StringIO()
    code, _ = run_into(stdout, "generate", "hello", "--no-chat", stderr=Full(0, error))
    assert (code, stdout.getvalue()) == (0, ANSWER + "\n")


def test_what_stdout_cannot_encode_is_escaped_and_json_stays_json(run_into, pair, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("né🙂\ntwo\n", encoding="utf-8")
    asked = ("generate", "--file", file, "--no-chat", "--quiet")
    for encoding, shown in (("ascii", r"n\xe9\U0001f642"), ("latin-1", r"né\U0001f642")):
        plain, as_json = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        assert run_into(plain, *asked) == (0, "")
        assert plain.buffer.getvalue().decode(encoding) == f"{shown}\n{ANSWER}\n\ntwo\n{ANSWER}\n\n"
        assert run_into(as_json, *asked, "--json") == (0, "")
        assert json.loads(as_json.buffer.getvalue().split(b"\n")[0])["prompt"] == "né🙂"


def test_json_goes_to_stdout_though_a_progress_bar_is_shown(run_into, pair, tmp_path, monkeypatch):
    """A bar on a terminal takes what is printed for its own; stdout is a file here."""
    from stet.cli.output import err

    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\n")
    monkeypatch.setattr(err, "_force_terminal", True)
    stdout = io.StringIO()
    code, told = run_into(stdout, "generate", "--file", file, "--no-chat", "--json")
    assert (code, stdout.getvalue().count("\n")) == (0, 2)
    assert '"prompt"' not in told


def test_ctrl_c_keeps_what_was_finished_out_of_turn(run, pair, tmp_path):
    file, trace = tmp_path / "prompts.txt", tmp_path / "trace.jsonl"
    file.write_text("one\ntwo\nthree\n")
    pair.interrupt, pair.backwards = "one", True
    result = run("generate", "--file", file, "--no-chat", "--json", "--trace", trace)
    assert result.exit_code == 130
    records = [json.loads(line) for line in result.stdout.split("\n") if line]
    assert [record["prompt"] for record in records] == ["two", "three"]
    assert trace.read_text().count("\n") == 2


# Prompts as they come


SEPARATORS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r"


def test_a_prompt_is_not_cut_at_what_ends_no_line(run, pair, tmp_path):
    text, jsonl = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    text.write_bytes(b"\xef\xbb\xbf" + f"one{SEPARATORS}two\r\nthree".encode())
    jsonl.write_text(json.dumps({"prompt": f"one{SEPARATORS}two"}, ensure_ascii=False) + "\n")
    for file in (text, jsonl):
        run("generate", "--file", file, "--no-chat")
    first, second = (prompts for prompts, _, _ in pair.calls)
    assert first == [f"one{SEPARATORS}two", "three"]
    assert second == [f"one{SEPARATORS}two"]


def test_a_prompt_from_windows_on_stdin(run, pair):
    run("generate", "--no-chat", stdin="\ufeffone\r\ntwo\x0c\r\n")
    assert pair.calls[0][0] == ["one\ntwo\x0c"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"caf\xe9", "not UTF-8 text"),
        ("hello".encode("utf-16"), "UTF-16"),
        (b"a\0b", "NUL"),
    ],
)
def test_a_stdin_that_is_no_text(run, loader, content, told):
    result = run("generate", stdin=content)
    assert (result.exit_code, told in result.stderr) == (2, True)
    assert not loader.arguments


def test_a_closed_stdin(loader, run_into, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    code, told = run_into(io.StringIO(), "generate")
    assert (code, told) == (2, "Error: There is no prompt, and stdin is closed.")


def test_a_prompt_that_is_no_text(run, loader):
    result = run("generate", "caf\udce9")
    assert (result.exit_code, "not UTF-8 text" in " ".join(result.stderr.split())) == (2, True)
    assert not loader.arguments


def test_a_prompt_is_read_in_utf_8_whatever_the_locale_is(run, pair):
    run("generate", "n\udcc3\udca9", "--no-chat")  # as Python reads é where it knows ASCII alone
    assert pair.calls[0][0] == ["né"]


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("p.txt", b"caf\xe9", "line 3, cannot be read"),
        ("p.txt", b"a\0b", "line 3, cannot be read"),
        ("p.jsonl", b'{"prompt": "\\ud800"}', "line 3: holds half a character"),
        ("p.jsonl", b"[" * 100_000, "line 3: not JSON"),
        ("p.jsonl", b"\0", "line 3, cannot be read"),
    ],
)
def test_a_line_that_is_no_text_is_named(run, loader, tmp_path, name, line, told):
    (tmp_path / name).write_bytes(b'{"prompt": "fine"}\n' * 2 + line + b"\n")
    result = run("generate", "--file", tmp_path / name)
    assert (result.exit_code, told in " ".join(result.stderr.split())) == (2, True)
    assert not loader.arguments


@pytest.mark.parametrize("content", ["", "\n \n", None])
def test_files_without_prompts(run, loader, tmp_path, content):
    file = tmp_path
    if content is not None:
        file = tmp_path / "prompts.txt"
        file.write_text(content)
    result = run("generate", "--file", file)
    told = "cannot be read" if content is None else "holds no prompts"
    assert (result.exit_code, told in " ".join(result.stderr.split())) == (2, True)


@pytest.mark.parametrize(
    ("size", "chosen", "threads"), [(10**6, None, [1]), (10**6, "2", []), (10**9, None, [3])]
)
def test_small_models_run_on_one_thread(run, pair, monkeypatch, size, chosen, threads):
    """And large ones on as many as are fastest, unless someone says how many."""
    import torch

    monkeypatch.setattr("stet.executors.threads._candidates", lambda most: [3])
    if chosen is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    pair.target.parameter_bytes = size
    run("generate", "a prompt", "--json")
    assert asked == threads
