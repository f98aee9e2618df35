"""Handing orders to workers that may die, with workers that are none."""

from collections import Counter

import pytest

from executors.fakes import Backend, once
from stet.core.errors import OptionError, StetError
from stet.executors.pool import AHEAD, ATTEMPTS, Pool


class Squares:
    def load(self):
        return {"python": "3"}

    def run(self, number):
        if number == "wrong":
            raise OptionError("That is no number.")
        return number, number**2


def pool(workers, **more):
    backend = Backend(Squares, **more)
    return Pool(backend, workers, accept=lambda _: None, tell=backend.told.append), backend


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_order_is_done_once(workers):
    made, backend = pool(workers)
    found = list(made.map("run", ((n,) for n in range(23))))
    assert sorted(found) == [(n, n**2) for n in range(23)]
    assert len(backend.workers) == workers
    assert not backend.told
    # A second time, with the same workers.
    assert made.call("run", 7) == (7, 49)
    assert len(backend.workers) == workers


def test_orders_are_taken_as_they_are_needed_and_no_more_are_under_way():
    made, backend = pool(3)
    taken = done = 0
    widest = 0

    def orders():
        nonlocal taken
        for number in range(50):
            taken += 1
            yield (number,)

    for _ in made.map("run", orders()):
        widest = max(widest, taken - done)
        done += 1
    assert done == taken == 50
    assert widest <= 3 * AHEAD
    assert backend.longest <= AHEAD


def test_whoever_is_done_gets_the_next_and_nobody_waits_for_the_slow():
    made, _ = pool(2, slow=(0,))
    found = [number for number, _ in made.map("run", ((n,) for n in range(12)))]
    assert sorted(found) == list(range(12))
    # The slow one, which was there first, holds what it was given then, and nothing else.
    assert set(found[-AHEAD:]) == set(range(AHEAD))


def test_what_a_dead_worker_was_to_do_is_done_by_another():
    made, backend = pool(2, dies=once(0))
    found = list(made.map("run", ((n,) for n in range(20))))
    assert sorted(found) == [(n, n**2) for n in range(20)]
    assert len(backend.workers) == 3
    (sentence,) = backend.told
    assert "A worker died (it was killed)" in sentence


def test_a_worker_that_died_while_nobody_asked_is_replaced():
    made, backend = pool(1)
    assert made.call("run", 2) == (2, 4)
    backend.stop(backend.workers[0])
    assert made.call("run", 3) == (3, 9)
    assert len(backend.workers) == 2


def test_a_deadly_order_is_given_up_and_the_others_are_done():
    deaths = Counter()

    def dies(worker, method, arguments):
        deadly = method == "run" and arguments == (5,)
        deaths[worker] += deadly
        return deadly

    made, backend = pool(2, dies=dies)
    found = []
    running = made.map("run", ((n,) for n in range(20)))

    def take():
        for result in running:
            found.append(result)

    with pytest.raises(StetError, match="1 chunk was given up: 3 workers died of it"):
        take()
    assert sorted(found) == [(n, n**2) for n in range(20) if n != 5]
    assert sum(deaths.values()) == ATTEMPTS
    assert len(backend.workers) == 2 + ATTEMPTS


@pytest.mark.parametrize("method", ["load", "run"])
def test_workers_that_always_die_end_the_run(method):
    made, _ = pool(2, dies=lambda _, name, __: name == method)
    with pytest.raises(StetError, match="Workers die as soon as they are started"):
        list(made.map("run", ((n,) for n in range(1000))))


def test_a_mistake_ends_the_run_with_its_sentence_and_the_workers_go_on():
    made, backend = pool(2)
    with pytest.raises(OptionError, match="no number"):
        list(made.map("run", [(1,), ("wrong",), (2,)]))
    assert sorted(made.map("run", [(3,), (4,)])) == [(3, 9), (4, 16)]
    assert len(backend.workers) == 2


def test_who_leaves_early_gets_nothing_of_it_later():
    made, _ = pool(2)
    running = made.map("run", ((n,) for n in range(100)))
    next(running)
    running.close()
    assert sorted(made.map("run", [(200,), (201,)])) == [(200, 40000), (201, 40401)]


def test_a_worker_that_is_not_accepted_ends_the_run():
    def refuse(_):
        raise StetError("It has another torch.")

    made = Pool(Backend(Squares), 2, accept=refuse, tell=print)
    with pytest.raises(StetError, match="another torch"):
        made.call("run", 1)


def test_closing_ends_all_workers():
    made, backend = pool(3)
    made.call("run", 1)
    made.close()
    assert all(worker.dead for worker in backend.workers)


def test_that_there_is_no_worker_for_long_is_told():
    made, backend = pool(2, away=2)
    assert sorted(made.map("run", [(1,), (2,)])) == [(1, 1), (2, 4)]
    assert backend.told == ["No worker is there yet: none has room, or the pair loads slowly."] * 2
    backend.away = 1  # workers are there, and take their time
    assert made.call("run", 3) == (3, 9)
    assert len(backend.told) == 2


def test_one_thing_at_a_time():
    made, _ = pool(2)
    going = made.map("run", ((n,) for n in range(6)))
    next(going)
    with pytest.raises(StetError, match="one thing at a time"):
        made.call("run", 7)
    going.close()
    assert made.call("run", 7) == (7, 49)
