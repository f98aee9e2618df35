"""Workers of the comparison with peers: processes that answer over a pipe, with made-up peers."""

import importlib
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """The modules of the benchmark, which are no package."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        names = ["checkpoint", "contenders", "groups", "session", "turns", "workers"]
        yield SimpleNamespace(**{n: importlib.import_module(f"_peers_{n}") for n in names})
    finally:
        sys.path.remove(str(SCRIPTS))


FAKE = """
    import sys, time
    sys.path.insert(0, {peers!r})
    from serve import serve

    def load(options):
        print("a library that talks")
        if options.get("broken"):
            raise RuntimeError("no such model")

        def answer(request):
            mode = request["setting"]["mode"]
            if mode == "raise":
                raise ValueError("a setting it does not know")
            if mode == "die":
                sys.exit(3)
            if mode == "hang":
                time.sleep(60)
            print("more talk")
            return {{"tokens": request["prompt"][: request["max_new_tokens"]], "seconds": 0.25}}

        return {{"version": "fake 1"}}, answer

    serve(load)
"""


@pytest.fixture
def fake(scripts, tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE.format(peers=str(SCRIPTS / "peers"))))

    def start(**load):
        spec = scripts.workers.Spec("fake", (sys.executable, str(script)), load, tmp_path)
        return scripts.workers.Worker(spec, tmp_path / "fake.log", answer_seconds=20)

    return start


def request(mode="copy"):
    return {"prompt": [5, 6, 7], "setting": {"mode": mode}, "max_new_tokens": 2}


def test_a_worker_answers_and_what_libraries_print_goes_elsewhere(fake, tmp_path):
    worker = fake()
    try:
        assert worker.about == {"version": "fake 1"}
        assert worker.ask(request()) == {"tokens": [5, 6], "seconds": 0.25}
        with pytest.raises(Exception, match="a setting it does not know"):
            worker.ask(request("raise"))
        assert worker.ask(request())["tokens"] == [5, 6]  # it goes on after an error
    finally:
        worker.close()
    assert "a library that talks" in (tmp_path / "fake.log").read_text()


def test_a_worker_that_does_not_load_says_why(scripts, fake):
    with pytest.raises(scripts.workers.PeerError, match="no such model"):
        fake(broken=True)


def test_a_worker_that_is_gone_or_hangs_is_an_error(scripts, fake):
    worker = fake()
    with pytest.raises(scripts.workers.PeerError, match="ended with code 3"):
        worker.ask(request("die"))
    worker = fake()
    with pytest.raises(scripts.workers.PeerError, match="no answer"):
        worker.ask(request("hang"), 0.5)
    assert worker._process.returncode is not None
    with pytest.raises(scripts.workers.PeerError):
        worker.ask(request())


def test_a_program_that_is_missing_is_an_error(scripts, tmp_path):
    spec = scripts.workers.Spec("none", (str(tmp_path / "none"),), {}, tmp_path)
    with pytest.raises(scripts.workers.PeerError, match="none"):
        scripts.workers.Worker(spec, tmp_path / "log")


def test_a_group_chooses_measures_and_goes_on(scripts, tmp_path, fake):
    """With real processes: settings are chosen on other prompts, and nothing is done twice."""
    fake().close()
    spec = scripts.workers.Spec("fake", (sys.executable, str(tmp_path / "fake.py")), {}, tmp_path)
    broken = scripts.workers.Spec("broken", spec.command, {"broken": True}, tmp_path)
    contenders = [
        scripts.turns.Contender("alone", "fake", {"mode": "copy"}),
        *scripts.contenders.family("draft", "fake", [{"mode": "raise"}, {"mode": "copy", "K": 2}]),
        scripts.turns.Contender("never", "broken", {"mode": "copy"}),
    ]
    prompts = [scripts.turns.Prompt(f"p{i}", (i, i)) for i in range(3)]
    group = scripts.groups.Group(
        "g", "a group", (spec, broken), contenders, prompts[:2], prompts[2:], 2
    )
    path = tmp_path / "r.jsonl"

    def run():
        kept = scripts.checkpoint.Checkpoint(path, {})
        scripts.session.Session(kept, tmp_path, float("inf")).run(group)
        return kept.records

    records = run()
    measured = [(r["contender"], r["prompt"]) for r in records if r.get("stage") == "g"]
    assert measured == [("alone", "p0"), ("draft K=2", "p0"), ("draft K=2", "p1"), ("alone", "p1")]
    (failed,) = [r for r in records if r.get("failed")]
    assert failed["worker"] == "broken"
    assert "no such model" in failed["error"]
    assert run() == records
