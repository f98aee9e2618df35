"""`stet generate`: answers to prompts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli import chat as chats
from stet.cli import options as o
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
from stet.core.errors import OptionError, StetError
from stet.core.files import check_writable, decoded, has_halves
from stet.core.trace import Counters

if TYPE_CHECKING:
    from stet.core.result import Result
    from stet.pair import Pair
    from stet.requests.inputs import Prompt

POLICY = "Policy"


def command(
    prompt: Annotated[
        str | None,
        typer.Argument(help='The prompt. "-", or nothing in a pipe: read it from stdin.'),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help='One prompt per line; in a .jsonl file one {"prompt": ...} per line.',
            show_default=False,
        ),
    ] = None,
    chat: chats.InChat = None,
    system: chats.System = None,
    template_arg: chats.TemplateArg = None,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            "-p",
            help="Decides which drafted tokens are accepted; see `stet policies`.",
            rich_help_panel=POLICY,
        ),
    ] = "exact",
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="A parameter of the policy, name=value. May be repeated.", rich_help_panel=POLICY
        ),
    ] = None,
    draft_length: Annotated[
        str,
        typer.Option(
            "--draft-length",
            "-k",
            help="Tokens drafted per block, or auto: chosen by what was accepted so far.",
            rich_help_panel=POLICY,
        ),
    ] = "auto",
    max_new_tokens: o.MaxNewTokens = None,
    temperature: o.Temperature = 0.0,
    top_k: Annotated[
        int, typer.Option(help="Keep the k likeliest tokens; 0: all.", rich_help_panel=o.SAMPLING)
    ] = 0,
    top_p: Annotated[
        float,
        typer.Option(help="Keep the likeliest tokens up to this sum.", rich_help_panel=o.SAMPLING),
    ] = 1.0,
    min_p: Annotated[
        float,
        typer.Option(
            help="Keep tokens with this share of the likeliest one.", rich_help_panel=o.SAMPLING
        ),
    ] = 0.0,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            help="Above 1 makes used tokens less likely.",
            rich_help_panel=o.SAMPLING,
            show_default="as the target's generation_config.json says, or 1",
        ),
    ] = None,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(
            help="Add to a token's logit, ID=VALUE. May be repeated.", rich_help_panel=o.SAMPLING
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same seed gives the same text.",
            rich_help_panel=o.SAMPLING,
            show_default="drawn where sampled, and reported",
        ),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End at this text. May be repeated.", rich_help_panel=o.SAMPLING),
    ] = None,
    stop_token_id: Annotated[
        list[int] | None,
        typer.Option(
            help="End at this token, beside the model's own. May be repeated.",
            rich_help_panel=o.SAMPLING,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="End a request after so many seconds.",
            rich_help_panel=o.SAMPLING,
            show_default=False,
        ),
    ] = None,
    both: o.Both = None,
    target: o.Target = None,
    target_model: o.TargetModel = None,
    allow_http: o.AllowHttp = False,
    draft: o.Draft = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    revision: o.Revision = None,
    draft_revision: o.DraftRevision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    self_check: o.SelfCheck = True,
    max_length: o.MaxLength = None,
    batch: Annotated[
        int,
        typer.Option(min=1, help="Most prompts decoded together.", rich_help_panel=o.MODELS),
    ] = 16,
    compile: o.Compile = None,
    show_origin: Annotated[
        bool,
        typer.Option(
            "--show-origin",
            help="Mark who wrote what: draft or target. With --json: a record per token.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = False,
    logprobs: Annotated[
        int,
        typer.Option(
            min=0,
            help="Record the n likeliest tokens at each position (with --json or --trace).",
            rich_help_panel=o.OUTPUT,
        ),
    ] = 0,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Append the trace, token by token, to this JSON-lines file.",
            rich_help_panel=o.OUTPUT,
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="No summary and no progress bar.", rich_help_panel=o.OUTPUT
        ),
    ] = False,
    as_json: o.AsJson = False,
) -> None:
    """Answer prompts by speculative decoding, and show what it saved.

    One prompt streams to the terminal as it is generated. Many prompts (--file)
    are decoded in batches and answered in their order. The summary goes to
    stderr, so that stdout holds only the answers.
    """
    target, draft = o.models_of(both, target, draft)
    prompts = _prompts(prompt, file)
    how = chats.chat_of(chat, system, template_arg)
    if trace is not None:
        check_writable(trace, lines=True)
    settings: dict[str, Any] = {
        "policy": o.policy_of(policy, param or []),
        "draft_length": o.draft_length_of(draft_length),
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "logit_bias": o.logit_bias_of(logit_bias) if logit_bias else None,
        "seed": seed,
        "stop": tuple(stop or ()),
        "stop_token_ids": tuple(stop_token_id or ()),
        "logprobs": logprobs,
        "timeout": timeout,
    }
    pair = o.load(
        target,
        draft,
        max_batch=min(batch, len(prompts)),
        policies=[settings["policy"]],
        compile=compile,
        target_model=target_model,
        allow_http=allow_http,
        dtype=dtype,
        device=device,
        revision=revision,
        draft_revision=draft_revision,
        trust_remote_code=trust_remote_code,
        self_check=self_check,
        max_length=max_length,
    )
    inputs = chats.inputs(pair, prompts, chat, how, quiet=quiet)
    start = perf_counter()
    if len(inputs) == 1 and not as_json:
        if show_origin:
            err.print(legend(err))
        results = [_stream(pair, inputs[0], settings, show_origin)]
        _write_trace(results[0], trace)
    else:
        write = _writer(prompts, as_json=as_json, show_origin=show_origin, trace=trace)
        results = _answer_all(pair, inputs, settings, write, quiet=quiet)
    if not quiet:
        total = Counters()
        for result in results:
            total.add(result.counters)
        # One answer's own time: without measuring costs beforehand, as a long-lived pair does once.
        seconds = results[0].seconds if len(results) == 1 else perf_counter() - start
        err.print(f"[dim]{summary(total, seconds)}[/]", soft_wrap=True)
        if (cut := cut_short(results)) is not None:
            err.print(f"[dim]{cut}[/]", soft_wrap=True)
        if seed is None and temperature > 0:
            # The first prompt's seed is that of all.
            err.print(f"[dim]To repeat it: --seed {results[0].seed}[/]", soft_wrap=True)
    if any(result.error is not None for result in results):
        raise typer.Exit(1)


def _prompts(prompt: str | None, file: Path | None) -> list[str]:
    if prompt is not None and file is not None:
        raise OptionError("Give a prompt or --file, not both.")
    if file is not None:
        return o.prompts_in(file)
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin is not None and sys.stdin.isatty():
            raise OptionError('Give a prompt: stet generate "..." (or --file, or a pipe).')
        prompt = o.prompt_of_stdin()
    if not prompt:
        raise OptionError("The prompt is empty.")
    if has_halves(prompt):  # the bytes that were typed, where the locale does not know UTF-8
        prompt = decoded(os.fsencode(prompt), "The prompt")
    return [prompt]


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
    waiting: dict[int, Result] = {}
    done = written = 0
    failure: Exception | None = None

    # Where answers go to the terminal as they come, a bar would be in the way.
    with progress("Generating", hidden=quiet or out.is_terminal) as show:

        def on_progress(result: Result) -> None:
            nonlocal done, written, failure
            if result.finish_reason == "cancelled" or failure is not None:
                return  # Ctrl-C: what is not finished is not written
            waiting[result.trace.request] = result  # counts from 0, as the pair is new
            done += 1
            try:
                while written in waiting:
                    write(written, waiting.pop(written))
                    written += 1
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
            for index in sorted(waiting):  # finished, though one before it is not
                write(index, waiting.pop(index))


class _CannotWrite(BaseException):
    """Leaves `generate` from its callback, which takes an `Exception` for the request's own."""


def _writer(
    prompts: Sequence[str], *, as_json: bool, show_origin: bool, trace: Path | None
) -> Callable[[int, Result], None]:
    """Make the function that prints an answer."""

    def write(index: int, result: Result) -> None:
        prompt = prompts[index]
        if as_json:
            print_json(_record(prompt, result, with_tokens=show_origin))
        else:
            out.print(prompt, style="dim", markup=False, soft_wrap=True)
            answer = coloured(result.tokens, result.text) if show_origin else result.text
            out.print(answer, end="\n\n", markup=False, soft_wrap=True)
        if result.error is not None:
            # What was wrong with a prompt of several names it already.
            named = result.error.startswith("Prompt ")
            show_error(result.error if named else f"Prompt {index + 1}: {result.error}")
        _write_trace(result, trace)

    return write


def _record(prompt: str, result: Result, *, with_tokens: bool) -> dict[str, Any]:
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


def _write_trace(result: Result, path: Path | None) -> None:
    if path is None:
        return
    from stet.core import trace

    trace.write([result.trace], path)
