"""Work on many workers leaves the records that it leaves in one process, whoever dies."""

import json
import shutil
from dataclasses import dataclass, replace
from itertools import count

import pytest

from executors.fakes import Backend, Keeper, once
from executors.kept import content
from families import save_pair
from stet.core.errors import OptionError, StetError
from stet.core.folders import PROFILE
from stet.evaluation import records
from stet.evaluation.contenders import parse
from stet.evaluation.graders import resolve_grader
from stet.evaluation.run import Comparison, Plan
from stet.evaluation.tasks.base import LoadedTask, Question
from stet.executors.base import Work, facts_of
from stet.executors.local import LocalExecutor
from stet.executors.pooled import PooledExecutor
from stet.executors.source import PairSource
from stet.load import load_pair

WORDS = ("a", "b", "c d", "e f", "how many", "g h", "b b", "a g", "h h d")


@dataclass(frozen=True)
class Held(PairSource):
    """A pair that is there already: what a worker would load."""

    def load_elsewhere(self):
        return self.arguments["pair"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folders = save_pair(tmp_path_factory.mktemp("pair"), noise=0.1)
    made = [load_pair(**folders, max_batch=16, max_length=200, compile=False) for _ in range(3)]
    yield made
    for pair in made:
        pair.close()


@pytest.fixture
def pooled(pairs):
    """An executor over workers that have pairs of this process."""
    free, made = [], []

    def make(workers=2, **more):
        free[:] = [*pairs, *pairs, *pairs]
        backend = Backend(lambda: Keeper(Held({"pair": free.pop()})), **more)
        made.append(backend)
        return PooledExecutor(backend, workers, threads=1, tell=backend.told.append), backend

    yield make
    for worker in (worker for backend in made for worker in backend.workers):
        worker.does._entered.close()  # a process would have ended with its pair


def plan(**changes):
    questions = [Question(f"q/{i}", word, str(i)) for i, word in enumerate(WORDS)]
    task = LoadedTask("letters", questions, resolve_grader("number"), 12, (), chat=None)
    names = ("target", "draft", "exact", "ensemble", "majority:of=target,k=3")
    settings = {
        "task": task,
        "contenders": [item for name in names for item in parse(name)],
        # Alone in a round: where several share one, lossless blocks hang on its times.
        "batch": 1,
        "options": {"max_new_tokens": 12, "probabilities": True},
    }
    return Plan(**settings | changes)


@pytest.fixture(scope="module")
def local(pairs, tmp_path_factory):
    """A run in this process, under costs that all the others are given."""
    folder = tmp_path_factory.mktemp("local") / "run"
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    _ = pairs[0].costs
    Comparison(pairs[0], plan(), folder).go()
    torch.set_num_threads(before)
    assert (folder / PROFILE).exists()
    return folder


def begun(local, folder):
    """A folder for the same run: it begins with the same costs, wherever it is worked on."""
    folder.mkdir()
    shutil.copy(local / PROFILE, folder / PROFILE)
    return folder


@pytest.mark.parametrize("workers", [1, 3])
def test_records_do_not_depend_on_who_makes_them(pooled, local, tmp_path, workers):
    executor, _ = pooled(workers)
    folder, seen = begun(local, tmp_path / "run"), []
    results = Comparison(executor, plan(), folder).go(seen.append)
    assert content(folder) == content(local)
    assert (folder / PROFILE).read_bytes() == (local / PROFILE).read_bytes()
    assert records.read(folder) == results
    assert [a for part in seen for a in part] == results.answers
    # All contenders of a chunk were timed by one worker, and it is on the record.
    by_chunk = {}
    for answer in results.answers:
        assert {"worker", "processor", "threads"} <= set(answer.machine)
        by_chunk.setdefault((answer.seed, answer.chunk), set()).add(answer.machine["worker"])
    assert all(len(found) == 1 for found in by_chunk.values())
    assert len(set.union(*by_chunk.values())) == workers


def test_records_of_one_process_say_nothing_of_workers(local):
    lines = (local / records.ANSWERS).read_text().splitlines()
    assert not any("machine" in json.loads(line) for line in lines)
    assert {answer.machine for answer in records.read_answers(local)} == {None}


def test_records_are_the_same_after_a_death(pooled, local, tmp_path):
    executor, backend = pooled(2, dies=once(1))
    folder = begun(local, tmp_path / "run")
    Comparison(executor, plan(), folder).go()
    assert len(backend.told) == 1
    assert content(folder) == content(local)


class Interrupted(Exception):
    pass


def test_a_run_goes_on_here_or_there(pooled, pairs, local, tmp_path):
    folder = begun(local, tmp_path / "run")
    calls = count(1)

    def stop(_):
        if next(calls) % 3 == 0:
            raise Interrupted

    executor, _ = pooled(2)
    with pytest.raises(Interrupted):
        Comparison(executor, plan(), folder).go(stop)
    # As a crash leaves it: a line is cut, so its chunk is answered again.
    answers = folder / records.ANSWERS
    answers.write_text(answers.read_text()[:-30])
    with pytest.raises(Interrupted):
        Comparison(LocalExecutor(pairs[1]), plan(), folder).go(stop)
    there = len(records.read_answers(folder))
    assert 0 < there < len(records.read_answers(local))
    Comparison(executor, plan(), folder).go()
    assert content(folder) == content(local)
    before = answers.read_bytes()
    Comparison(executor, plan(), folder).go(lambda _: pytest.fail("nothing was left"))
    assert answers.read_bytes() == before


def test_a_question_that_fails_is_on_the_record_and_the_run_goes_on(pooled, tmp_path):
    failing = plan(options={"max_new_tokens": 12, "timeout": 1e-9})
    executor, _ = pooled(2)
    results = Comparison(executor, failing, tmp_path).go()
    assert len(results.answers) == len(WORDS) * 5
    assert {a.finish_reason for a in results.answers} == {"timeout"}


def test_what_is_wrong_with_the_run_ends_it_with_a_sentence(pooled, tmp_path):
    executor, _ = pooled(2)
    wrong = plan(options={"max_new_tokens": 12, "stop_token_ids": [10**6]})
    with pytest.raises(OptionError, match="the vocabulary has"):
        Comparison(executor, wrong, tmp_path).go()


def test_a_run_without_costs_measures_them_once_for_all(pooled, tmp_path):
    measured = []

    def listen(worker, method, arguments):
        del arguments
        if method == "measure":
            measured.append(worker)
        return False

    executor, _ = pooled(3, dies=listen)
    folder = tmp_path / "run"
    Comparison(executor, plan(), folder).go()
    assert len(measured) == 1
    rules = set()
    for line in records.read_traces(folder):
        rule = line["trace"]["settings"]["draft_length"]
        rules.add((line["policy"], json.dumps(rule, sort_keys=True)))
    assert len(rules) == len({policy for policy, _ in rules})
    # A run within another one, as in a calibration, begins with its costs.
    with executor.costs_of_run(folder / PROFILE), executor.costs_of_run(tmp_path / "inner.json"):
        pass
    assert (tmp_path / "inner.json").read_bytes() == (folder / PROFILE).read_bytes()


@dataclass(frozen=True)
class Knowing(Work):
    """Says under what a chunk is worked on, and how often it was prepared for."""

    def prepare(self, pair):
        pair.prepared = getattr(pair, "prepared", 0) + 1

    def run(self, pair, chunk):
        yield chunk, pair._profile.is_record, pair.prepared


def test_work_is_prepared_once_by_each_worker_and_under_the_run(pooled, tmp_path):
    executor, backend = pooled(2)
    with executor.costs_of_run(tmp_path / PROFILE), executor.keeping_texts():
        inside = [part for f in executor.map(Knowing(), range(12)) for part in f.parts]
    outside = [part for f in executor.map(Knowing(), range(12)) for part in f.parts]
    assert sorted(chunk for chunk, _, _ in inside) == list(range(12))
    assert {record for _, record, _ in inside} == {True}
    assert {record for _, record, _ in outside} == {False}
    # Once more for other work.
    assert {times for _, _, times in inside} == {1}
    assert {times for _, _, times in outside} == {2}
    for worker in backend.workers:
        del worker.does._pair.prepared


def test_all_executors_know_the_pair(pooled, pairs):
    executor, _ = pooled(2)
    assert executor.call(facts_of) == LocalExecutor(pairs[0]).call(facts_of)
    assert executor.call(facts_of).fingerprint == pairs[0].fingerprint


def test_workers_with_other_versions_are_refused(pairs):
    versions = iter([{"torch": "2.13.0"}, {"torch": "2.14.0"}])

    class Old(Keeper):
        def load(self):
            super().load()
            return next(versions)

    backend = Backend(lambda: Old(Held({"pair": pairs[0]})), slow=(0,))
    executor = PooledExecutor(backend, 2, threads=1)
    with pytest.raises(StetError, match=r"One worker has torch 2\.13\.0, another has 2\.14\.0"):
        list(executor.map(Knowing(), range(10)))


def test_threads_are_chosen_once_and_are_the_same_for_all(pairs):
    import torch

    before = torch.get_num_threads()
    backend = Backend(lambda: Keeper(Held({"pair": pairs[0]})))
    try:
        executor = PooledExecutor(backend, 2, cores=4)
        assert executor.call(threads_of) == 1  # a model as small as this
        assert executor._conditions.threads == 1
    finally:
        torch.set_num_threads(before)


def threads_of(pair):
    import torch

    return torch.get_num_threads()


def test_a_plan_is_replaced_by_one_that_suits_the_pair(pooled, tmp_path):
    executor, _ = pooled(1)
    made = plan()
    comparison = Comparison(executor, replace(made, options={"max_new_tokens": 3}), tmp_path)
    assert comparison.plan.options["repetition_penalty"] == 1.0
    assert comparison.plan.task == made.task
