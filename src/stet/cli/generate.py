"""`stet generate`: answers to prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import typer

from stet.cli.chat import ChatOptions, put_into_chat
from stet.cli.cluster import ClusterOptions
from stet.cli.generate_many import InOrder, answer_on_cluster
from stet.cli.generate_options import OutputOptions, PolicyOptions, PromptOptions, ServingOptions
from stet.cli.groups import with_groups
from stet.cli.options import load
from stet.cli.output import (
    coloured,
    counters_json,
    cut_short,
    err,
    legend,
    out,
    print_json,
    progress,
    show_error,
    summary,
)
from stet.cli.sampling import RequestOptions
from stet.core.errors import OptionError, StetError
from stet.core.trace import Counters
from stet.core.writing import check_writable

if TYPE_CHECKING:
    from stet.core.result import Result
    from stet.executors.prompting import Answered
    from stet.pair import Pair
    from stet.requests.inputs import Prompt


@with_groups
def command(
    prompt: PromptOptions,
    chat: ChatOptions,
    policy: PolicyOptions,
    sampling: RequestOptions,
    models: ServingOptions,
    output: OutputOptions,
    cluster: ClusterOptions,
) -> None:
    """Answer prompts by speculative decoding, and show what it saved.

    One prompt streams to the terminal as it is generated. Many prompts (--file)
    are decoded in batches and answered in their order. The summary goes to
    stderr, so that stdout holds only the answers.
    """
    models = models.resolve()
    texts = prompt.read()
    how = chat.settings()
    cluster.check()
    if cluster.ray is not None and prompt.file is None:
        raise OptionError("--ray is for many prompts: give them by --file.")
    if output.trace is not None:
        check_writable(output.trace, lines=True)
    settings = {**policy.settings(), **sampling.settings(), "logprobs": output.logprobs}
    results: Sequence[Result | Answered]
    if cluster.ray is not None:
        write = _make_writer(texts, output)
        results, seconds = answer_on_cluster(
            cluster, models, texts, settings, chat, write, quiet=output.quiet
        )
    else:
        pair = load(models, max_batch=min(models.batch, len(texts)), policies=[settings["policy"]])
        prompts = put_into_chat(pair, texts, chat.in_chat, how, quiet=output.quiet)
        start = perf_counter()
        results = _answer(pair, texts, prompts, settings, output)
        seconds = perf_counter() - start
    if not output.quiet:
        if len(results) == 1:
            # Its own time: without measuring costs beforehand, as a long-lived pair does once.
            seconds = results[0].seconds
        _show_summary(results, seconds, sampling)
    if any(result.error is not None for result in results):
        raise typer.Exit(1)


def _answer(
    pair: Pair,
    texts: Sequence[str],
    prompts: Sequence[Prompt],
    settings: dict[str, Any],
    output: OutputOptions,
) -> list[Result]:
    """Answer one prompt as a stream to the terminal, and many, or for programs, in batches."""
    if len(prompts) > 1 or output.as_json:
        write = _make_writer(texts, output)
        return _answer_all(pair, prompts, settings, write, quiet=output.quiet)
    if output.show_origin:
        err.print(legend(err))
    result = _stream(pair, prompts[0], settings, output.show_origin)
    _write_trace(result, output.trace)
    return [result]


def _show_summary(
    results: Sequence[Result | Answered], seconds: float, sampling: RequestOptions
) -> None:
    total = Counters()
    for result in results:
        total.add(result.counters)
    err.print(f"[dim]{summary(total, seconds)}[/]", soft_wrap=True)
    if (cut := cut_short(results)) is not None:
        err.print(f"[dim]{cut}[/]", soft_wrap=True)
    if sampling.seed is None and sampling.temperature > 0:
        # The first prompt's seed is that of all.
        err.print(f"[dim]To repeat it: --seed {results[0].seed}[/]", soft_wrap=True)


def _stream(pair: Pair, prompt: Prompt, settings: dict[str, Any], show_origin: bool) -> Result:
    result: Result | None = None
    failure: StetError | None = None
    try:
        for chunk in pair.stream(prompt, **settings):
            piece = coloured(chunk.tokens, chunk.text) if show_origin else chunk.text
            out.print(piece, end="", markup=False, soft_wrap=True)
            result = chunk.result
    except StetError as error:
        if result is None:
            raise
        failure = error
    finally:
        out.print()
    if failure is not None:  # what was written stays, here and in the trace
        show_error(str(failure))
    assert result is not None, "the last piece carries the result"
    return result


def _answer_all(
    pair: Pair,
    prompts: Sequence[Prompt],
    settings: dict[str, Any],
    write: Callable[[int, Result], None],
    *,
    quiet: bool,
) -> list[Result]:
    """Answer many prompts; each answer is written as soon as those before it are."""
    ordered = InOrder(write)
    done = 0
    failure: Exception | None = None

    # Where answers go to the terminal as they come, a bar would be in the way.
    with progress("Generating", hidden=quiet or out.is_terminal) as show:

        def on_progress(result: Result) -> None:
            nonlocal done, failure
            if result.finish_reason == "cancelled" or failure is not None:
                return  # Ctrl-C: what is not finished is not written
            done += 1
            try:
                ordered.add(result.trace.request, result)  # counts from 0, as the pair is new
                show(done, len(prompts))
            except Exception as error:
                # An error of the command, not of the request that happens to be finished.
                failure = error
                raise _CannotWrite from error

        try:
            return pair.generate(prompts, on_progress=on_progress, **settings)
        except _CannotWrite:
            return []
        finally:
            if failure is not None:
                raise failure
            ordered.add_rest()


class _CannotWrite(BaseException):
    """Leaves `generate` from its callback, which takes an `Exception` for the request's own."""


def _make_writer(
    texts: Sequence[str], output: OutputOptions
) -> Callable[[int, Result | Answered], None]:
    """Make the function that prints an answer."""

    def write(index: int, result: Result | Answered) -> None:
        if output.as_json:
            print_json(_record(texts[index], result, with_tokens=output.show_origin))
        else:
            out.print(texts[index], style="dim", markup=False, soft_wrap=True)
            answer = coloured(result.tokens, result.text) if output.show_origin else result.text
            out.print(answer, end="\n\n", markup=False, soft_wrap=True)
        if result.error is not None:
            # What was wrong with a prompt of several names it already.
            named = result.error.startswith("Prompt ")
            show_error(result.error if named else f"Prompt {index + 1}: {result.error}")
        _write_trace(result, output.trace)

    return write


def _record(prompt: str, result: Result | Answered, *, with_tokens: bool) -> dict[str, Any]:
    record: dict[str, Any] = {
        "prompt": prompt,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "seed": result.seed,
        "seconds": result.seconds,
        "counters": counters_json(result.counters),
        "error": result.error,
    }
    if with_tokens:
        record["tokens"] = [asdict(token) for token in result.tokens]
    return record


def _write_trace(result: Result | Answered, path: Path | None) -> None:
    if path is None:
        return
    from stet.core import trace

    trace.write([result.trace], path)
