"""Options that several commands share, and functions that parse their text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli.output import err
from stet.core.errors import OptionError
from stet.core.files import FileError, decoded, json_of, lines_of
from stet.core.parsing import value_of

if TYPE_CHECKING:
    from stet.pair import Pair

LONGEST_PROMPT = 2**24
"""The most bytes of a prompt that are read."""

MODELS = "Models"
REMOTE = ("http://", "https://")
SAMPLING = "Sampling"
OUTPUT = "Output"

AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs.", rich_help_panel=OUTPUT)
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="The larger model: a folder, a hub name, or the address of a completions endpoint. "
        "Without it: the bundled pair.",
        rich_help_panel=MODELS,
        show_default=False,
    ),
]
TargetModel = Annotated[
    str | None,
    typer.Option(
        "--target-model",
        help="With an address as --target: what the server calls the model.",
        rich_help_panel=MODELS,
        show_default=False,
    ),
]
AllowHttp = Annotated[
    bool,
    typer.Option(
        "--allow-http",
        help="Allow an unencrypted address that is not this machine's.",
        rich_help_panel=MODELS,
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        "-d",
        help='The smaller model, or "lookup" to draft from the prompt itself.',
        rich_help_panel=MODELS,
        show_default=False,
    ),
]
Both = Annotated[
    str | None,
    typer.Option(
        "--pair",
        help='Both models at once: "bundled", or a folder that holds them as target/ and draft/.',
        rich_help_panel=MODELS,
        show_default=False,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(help="float32, bfloat16, float16, or auto: as saved.", rich_help_panel=MODELS),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.", rich_help_panel=MODELS)]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Revision of the target on the hub.", rich_help_panel=MODELS, show_default=False
    ),
]
DraftRevision = Annotated[
    str | None,
    typer.Option(
        help="Revision of the draft on the hub.", rich_help_panel=MODELS, show_default=False
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the model's files. Only for sources you trust.",
        rich_help_panel=MODELS,
    ),
]
TaskLength = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Longest answer.", show_default="the task's own"),
]
SelfCheck = Annotated[
    bool,
    typer.Option(
        "--self-check/--no-self-check",
        help="Compare each layer's output in Stet with its output in transformers.",
        rich_help_panel=MODELS,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Longest prompt and answer together, in tokens.",
        rich_help_panel=MODELS,
        show_default=False,
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the models: slower to start, faster to run. Default: on for long runs.",
        rich_help_panel=MODELS,
        show_default=False,
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        "-n",
        min=1,
        help="Longest answer.",
        rich_help_panel=SAMPLING,
        show_default="256, or what fits",
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        help="0 takes the most probable token; above 0 samples.", rich_help_panel=SAMPLING
    ),
]


def load(
    target: str | None,
    draft: str | None,
    *,
    max_batch: int = 16,
    policies: Iterable[Any] = (),
    compile: bool | None = None,
    target_model: str | None = None,
    allow_http: bool | None = None,
    **options: Any,
) -> Pair:
    """Load a pair, with a status line.

    Args:
        target: the target as the user named it; an address for a remote one.
        draft: the draft as the user named it.
        max_batch: requests at a time.
        policies: policies that will be used, each on `max_batch` requests; the cache gets rows for
            all of their candidates.
        compile: as the user said; None if nothing was said.
        target_model: what the server at that address calls the model.
        allow_http: as the user said about unencrypted addresses; None for a command that needs a
            local target.
        **options: further options of `load_pair`.

    Raises:
        StetError: where the pair cannot be loaded or run faithfully.
    """
    is_remote = target is not None and target.startswith(REMOTE)
    if is_remote and allow_http is None:
        raise OptionError("This command needs a local target; remote ones are for stet generate.")
    if target_model is not None and not is_remote:
        raise OptionError(
            "--target-model goes with an address as --target, such as https://host/v1."
        )
    named = (None if is_remote else target, draft)
    places = [place for place in named if place is not None and place != "lookup"]
    if all(Path(place).exists() for place in places) or not err.is_terminal:
        # Nothing is downloaded, or there is no terminal: no bars that flash by. transformers, too,
        # reads this when it is imported.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    what = " and ".join(Path(place).name for place in places) or "the bundled pair"
    with err.status(f"Loading {what} ..."):
        import stet
        from stet.requests.jobs import rows_of

        each = max((rows_of(policy) for policy in policies), default=1)
        whole: str | stet.RemoteTarget | None = target
        if target is not None and is_remote:
            whole = stet.RemoteTarget(target, target_model or "", allow_http=bool(allow_http))
        pair = stet.load_pair(
            whole,
            draft,
            max_batch=max_batch,
            max_rows=max_batch * each,
            compile="auto" if compile is None else compile,
            **options,
        )
    _leave_small_models_on_one_thread(pair)
    return pair


def models_of(
    both: str | None, target: str | None, draft: str | None
) -> tuple[str | None, str | None]:
    """Target and draft as `--pair`, or `--target` and `--draft`, name them.

    Raises:
        OptionError: for both ways at once, or a folder that does not hold two models.
    """
    if both is None:
        return target, draft
    if target is not None or draft is not None:
        raise OptionError("--pair names both models; leave out --target and --draft.")
    if both == "bundled":
        return None, None
    places = [Path(both) / role for role in ("target", "draft")]
    if not all(place.is_dir() for place in places):
        raise OptionError(
            f'There is no pair {both!r}; give "bundled", or a folder that holds the models as '
            "target/ and draft/."
        )
    return str(places[0]), str(places[1])


SMALL = 64 * 2**20
"""Bytes of weights below which handing work to a second thread costs more than it saves."""


def _leave_small_models_on_one_thread(pair: Pair) -> None:
    """Set one thread for small models on a CPU, where it is faster, unless told otherwise."""
    models = pair.models
    on_cpu = all(model.device.type == "cpu" for model in models)
    if on_cpu and sum(m.parameter_bytes for m in models) < SMALL:
        import torch

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)


def policy_of(name: str, parameters: Iterable[str]) -> Any:
    """The policy that `--policy NAME --param name=value ...` names.

    Raises:
        OptionError: for a name or parameter that does not exist, or text that is not `name=value`.
    """
    values = dict(pair_of(text, "--param") for text in parameters)
    if not values:
        return name
    from stet.policies import resolve

    return resolve(name, {key: value_of(text) for key, text in values.items()})


def pair_of(text: str, option: str) -> tuple[str, str]:
    """Split `name=value`.

    Raises:
        OptionError: where there is no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise OptionError(f"{option} {text!r} is not of the form name=value.")
    return name.strip(), value.strip()


def logit_bias_of(entries: Iterable[str]) -> dict[int, float]:
    """The bias of each token id that `--logit-bias ID=VALUE ...` sets.

    Raises:
        OptionError: for what is not a token id and a number.
    """
    bias: dict[int, float] = {}
    for entry in entries:
        token, value = pair_of(entry, "--logit-bias")
        try:
            bias[int(token)] = float(value)
        except ValueError as error:
            raise OptionError(f"--logit-bias {entry!r} is not a token id and a number.") from error
    return bias


def draft_length_of(text: str) -> int | str:
    """The value of `--draft-length`: a number of tokens, or "auto".

    Raises:
        OptionError: for anything else.
    """
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(
            f'--draft-length {text!r} is neither a number of tokens nor "auto".'
        ) from error


def prompts_in(file: Path) -> list[str]:
    """The prompts of a file: one per line, or JSON lines with a `prompt`.

    Raises:
        OptionError: where the file cannot be read or a line has no prompt.
    """
    try:
        return [*_prompts_in(file)]
    except FileError as error:
        raise OptionError(str(error)) from error


def prompt_of_stdin() -> str:
    """Read the one prompt on stdin, without its last line end.

    Raises:
        OptionError: stdin is closed, or no UTF-8 text.
    """
    if sys.stdin is None:
        raise OptionError("There is no prompt, and stdin is closed.")
    # As bytes: the terminal's settings must not change what a prompt says.
    try:
        content = sys.stdin.buffer.read(LONGEST_PROMPT + 1)
        text = decoded(content, "The prompt on stdin")
    except OSError as error:
        raise OptionError(f"stdin cannot be read ({error.strerror or error}).") from error
    except FileError as error:
        raise OptionError(str(error)) from error
    if len(content) > LONGEST_PROMPT:
        raise OptionError(f"The prompt on stdin is longer than {LONGEST_PROMPT // 2**20} MiB.")
    return text.replace("\r\n", "\n").removesuffix("\n")


def _prompts_in(file: Path) -> Iterator[str]:
    # The file's name decides, so that a prompt may begin with a brace.
    is_jsonl = file.suffix in {".jsonl", ".ndjson", ".json"}
    count = 0
    for number, line in lines_of(file, LONGEST_PROMPT):
        if line.strip():
            count += 1
            yield _prompt_in(line, f"{file}, line {number}") if is_jsonl else line
    if not count:
        raise OptionError(f"{file} holds no prompts.")


def _prompt_in(line: str, where: str) -> str:
    record = json_of(line, where)
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str) or not prompt:
        raise OptionError(f'{where}: no text under "prompt".')
    return prompt
