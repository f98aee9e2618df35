"""`stet warmup`: what a pair needs once on a machine is done now, so that later starts are fast."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from stet.cli import options as o
from stet.cli.groups import with_groups
from stet.cli.output import a_table, err, out, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from stet.core.model import LoadedModel
    from stet.pair import Pair


@dataclass(frozen=True, slots=True)
class Done:
    """Something that was done.

    Attributes:
        what: in words.
        found: what came of it, in words.
        seconds: how long it took.
    """

    what: str
    found: str
    seconds: float


@with_groups
def command(models: o.ModelOptions, as_json: o.AsJson = False) -> None:
    """Do now what a pair needs once on a machine: compile kernels, measure, choose threads.

    Loads and checks the models, compiles the kernels of packed weights, measures
    with how many threads passes are fastest and what they cost, and keeps all of
    it in the cache of the user ($STET_CACHE, or stet in $XDG_CACHE_HOME). Later
    commands find it there. With --compile the passes are compiled, too, which
    takes minutes; torch keeps what it compiled in the same place.
    """
    import torch

    models = models.resolve()
    done: list[Done] = []
    began = perf_counter()
    pair = o.load(models, max_batch=1, compile_default=False)
    kinds = " and ".join(_kind(model) for model in pair.models)
    threads = f"{torch.get_num_threads()} threads"
    loaded = f"{kinds}; {threads}"
    done.append(Done("models loaded, kernels compiled", loaded, perf_counter() - began))
    done.append(_measure(pair))
    if models.compile:
        done.append(_timed("passes compiled", lambda: _compile(pair)))
        done.append(_measure(pair))
    record = [asdict(each) for each in done]
    if as_json:
        print_json({"steps": record, "profile": _place(pair)})
        return
    table = a_table("Warmed up", "", "found", "seconds")
    for each in done:
        table.add_row(each.what, each.found, f"{each.seconds:.1f}")
    out.print(table)
    out.print(f"Kept in {_place(pair) or 'nothing: there is no folder to keep it in'}.")


def _timed(what: str, work: Callable[[], str]) -> Done:
    began = perf_counter()
    with err.status(f"{what.capitalize()} ..."):
        found = work()
    return Done(what, found, perf_counter() - began)


def _kind(model: LoadedModel) -> str:
    return "packed" if model.packed else str(model.dtype).removeprefix("torch.")


def _measure(pair: Pair) -> Done:
    """Measure what passes cost, or find it measured."""

    def work() -> str:
        costs = pair.costs
        found = f"target {1000 * costs.target_pass(1):.1f} ms"
        if costs.draft:
            found += f", draft {1000 * costs.draft_pass(1):.1f} ms a token"
        return found + (", beside other work: measured again later" if costs.disturbed else "")

    return _timed("costs of passes", work)


def _compile(pair: Pair) -> str:
    compiled = pair.warm_up()
    pair.renew_costs()
    return "all of them" if compiled else "not all of them: see the warning"


def _place(pair: Pair) -> str | None:
    path = pair.profile_path
    return None if path is None else str(path)
