"""`stet generate -f` by workers writes what it writes in one process."""

import pytest

from executors.fakes import Backend, Keeper, once
from families import save_pair
from stet.cli.chat import ChatOptions
from stet.cli.generate_many import InOrder, answer_on_cluster
from stet.core.errors import OptionError
from stet.executors.pooled import PooledExecutor
from stet.executors.source import PairSource
from stet.load import load_pair

TEXTS = ("a", "b", "c d", "e f", "how many", "g h", "b b", "a g", "h h d")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folders = save_pair(tmp_path_factory.mktemp("pair"), noise=0.1)
    with load_pair(**folders, max_batch=2, max_length=40, compile=False) as made:
        yield made


class Held(PairSource):
    def load_elsewhere(self):
        return self.arguments["pair"]


class Cluster:
    """What opens an executor for the command."""

    def __init__(self, pair, **more):
        self.backend = Backend(lambda: Keeper(Held({"pair": pair})), **more)

    def open(self, models, **_):
        del models
        return PooledExecutor(self.backend, 2, threads=1, tell=self.backend.told.append)


class Models:
    batch = 1


def settings(**changes):
    return {"policy": "exact", "seed": None, "temperature": 0.0, "max_new_tokens": 10, **changes}


def answers(pair, texts=TEXTS, *, write=None, **changes):
    cluster = Cluster(pair, dies=once(0))
    chat = ChatOptions(in_chat=False)
    wrote = []
    found, seconds = answer_on_cluster(
        cluster,
        Models(),
        texts,
        settings(**changes),
        chat,
        write or (lambda index, answer: wrote.append((index, answer))),
        quiet=True,
    )
    assert write is not None or wrote == list(enumerate(found))
    assert seconds > 0
    assert len(cluster.backend.told) == 1, "a worker died, and nobody noticed"
    return found


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.8, "seed": 5}])
def test_texts_are_those_of_one_process(pair, changes):
    found = answers(pair, **changes)
    here = pair.generate(TEXTS, **settings(**changes))
    assert [a.text for a in found] == [r.text for r in here]
    assert [[t.id for t in a.tokens] for a in found] == [r.token_ids for r in here]
    assert [a.seed for a in found] == [r.seed for r in here]
    assert [a.finish_reason for a in found] == [r.finish_reason for r in here]
    assert [a.trace.request for a in found] == list(range(len(TEXTS)))
    assert all(a.seconds > 0 and a.counters.emitted_tokens == len(a.tokens) for a in found)


def test_a_seed_that_is_drawn_is_that_of_the_first_prompt(pair):
    found = answers(pair, temperature=0.8)
    again = pair.generate(TEXTS, **settings(temperature=0.8, seed=found[0].seed))
    assert [a.text for a in found] == [r.text for r in again]


def test_a_prompt_that_does_not_fit_is_told_by_its_number_and_the_others_are_answered(pair):
    texts = [*TEXTS[:6], "a " * 60, *TEXTS[6:]]
    found = answers(pair, texts)
    assert [index for index, a in enumerate(found) if a.error] == [6]
    assert found[6].error.startswith("Prompt 7 of 10")
    assert pair.generate(texts, **settings())[6].error == found[6].error


def test_a_mistake_in_the_options_ends_the_command(pair):
    with pytest.raises(OptionError, match="top_p"):
        answers(pair, top_p=7.0)


def test_an_answer_that_cannot_be_written_ends_the_command_at_once(pair):
    wrote = []

    def write(index, answer):
        wrote.append(index)
        if index == 3:
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        answers(pair, write=write)
    assert wrote == [0, 1, 2, 3]


def test_answers_are_written_in_order_and_the_rest_at_the_end():
    wrote = []
    ordered = InOrder(lambda index, answer: wrote.append((index, answer)))
    for index in (2, 0, 4):
        ordered.add(index, "abcdef"[index])
    assert wrote == [(0, "a")]
    ordered.add(1, "b")
    assert wrote == [(0, "a"), (1, "b"), (2, "c")]
    ordered.add_rest()
    assert wrote[3:] == [(4, "e")]
