"""Options that several commands share: the models, how they are loaded, and the form of output."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from stet.cli.groups import After, OptionGroup
from stet.cli.output import err
from stet.core.errors import OptionError

if TYPE_CHECKING:
    from stet.executors.source import PairSource
    from stet.pair import Pair
    from stet.remote.target import RemoteTarget

REMOTE = ("http://", "https://")
OUTPUT = "Output"

AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs.", rich_help_panel=OUTPUT)
]


@dataclass(frozen=True, slots=True)
class ModelOptions(OptionGroup):
    """The pair, and how its models are loaded and run."""

    panel = "Models"

    both: Annotated[
        str | None,
        typer.Option(
            "--pair",
            help='Both models at once: "bundled", or a folder that holds them as target/ and '
            "draft/.",
            show_default=False,
        ),
    ] = None
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="The larger model: a folder, a GGUF file, a hub name, ollama:NAME:TAG, "
            "lmstudio:PUBLISHER/MODEL, or the address of a completions endpoint. Without it: the "
            "bundled pair.",
            show_default=False,
        ),
    ] = None
    draft: Annotated[
        str | None,
        typer.Option(
            "--draft",
            "-d",
            help='The smaller model, named likewise, or "lookup" to draft from the prompt itself.',
            show_default=False,
        ),
    ] = None
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16, or auto: as saved (GGUF: bfloat16).")
    ] = "auto"
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.")] = "auto"
    revision: Annotated[
        str | None, typer.Option(help="Revision of the target on the hub.", show_default=False)
    ] = None
    draft_revision: Annotated[
        str | None, typer.Option(help="Revision of the draft on the hub.", show_default=False)
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run code that comes with the model's files. Only for sources you trust.",
        ),
    ] = False
    self_check: Annotated[
        bool,
        typer.Option(
            "--self-check/--no-self-check",
            help="Compare each layer's output in Stet with its output in transformers.",
        ),
    ] = True
    packed: Annotated[
        bool | None,
        typer.Option(
            "--packed/--no-packed",
            help="Keep matrices of GGUF files packed, and bfloat16 arranged for a kernel. Default: "
            "on a CPU, where it is possible.",
            show_default=False,
        ),
    ] = None
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="int8|int4",
            help="Round the weights of unquantised models on a CPU: faster, less accurate.",
            show_default=False,
        ),
    ] = None
    draft_quantize: Annotated[
        str | None,
        typer.Option(
            metavar="int8|int4|none",
            help="The same for the draft alone. Default: as the target.",
            show_default=False,
        ),
    ] = None
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longest prompt and answer together, in tokens.", show_default=False
        ),
    ] = None
    cache_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help='Most memory of the caches, such as "2GB". Default: for all requests at full '
            "length, or most of what is free.",
            show_default=False,
        ),
    ] = None
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the models: slower to start, faster to run. Default: on for long runs.",
            show_default=False,
        ),
    ] = None

    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads of a CPU to use.",
            show_default="OMP_NUM_THREADS, or what is fastest",
        ),
    ] = None

    @property
    def is_remote(self) -> bool:
        """Whether the target is an address."""
        return self.target is not None and self.target.startswith(REMOTE)

    def resolve(self) -> Self:
        """Name target and draft one by one where `--pair` names both.

        Raises:
            OptionError: for both ways at once, or a folder that does not hold two models.
        """
        if self.both is None:
            return self
        if self.target is not None or self.draft is not None:
            raise OptionError("--pair names both models; leave out --target and --draft.")
        if self.both == "bundled":
            return replace(self, both=None)
        places = [Path(self.both) / role for role in ("target", "draft")]
        if not all(place.is_dir() for place in places):
            raise OptionError(
                f'There is no pair {self.both!r}; give "bundled", or a folder that holds the '
                "models as target/ and draft/."
            )
        return replace(self, both=None, target=str(places[0]), draft=str(places[1]))

    def check_target(self) -> None:
        """Raise an `OptionError` for a target that this command cannot run."""
        if self.is_remote:
            raise OptionError(
                "This command needs a local target; remote ones are for stet generate."
            )

    def make_target(self) -> str | RemoteTarget | None:
        """The target as `load_pair` takes it."""
        return self.target


@dataclass(frozen=True, slots=True)
class RemoteModelOptions(ModelOptions):
    """The pair of a command whose target may be behind an address."""

    target_model: Annotated[
        str | None,
        typer.Option(
            "--target-model",
            help="With an address as --target: what the server calls the model.",
            show_default=False,
        ),
        After("target"),
    ] = None
    allow_http: Annotated[
        bool,
        typer.Option(
            "--allow-http", help="Allow an unencrypted address that is not this machine's."
        ),
        After("target_model"),
    ] = False

    def check_target(self) -> None:
        """Raise an `OptionError` for a server's name of the model where there is no server."""
        if self.target_model is not None and not self.is_remote:
            raise OptionError(
                "--target-model goes with an address as --target, such as https://host/v1."
            )

    def make_target(self) -> str | RemoteTarget | None:
        """The target as `load_pair` takes it: an address becomes a `RemoteTarget`."""
        if self.target is None or not self.is_remote:
            return self.target
        from stet import RemoteTarget

        return RemoteTarget(self.target, self.target_model or "", allow_http=self.allow_http)


def _keep_compiled_passes() -> None:
    """Have torch keep what it compiles where other processes, and later days, find it.

    By default that is the system's folder for temporary files. torch reads this when it compiles.
    """
    from stet.core.cache import cache_folder

    folder = cache_folder("compiled")
    if folder is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def make_source(
    models: ModelOptions,
    *,
    max_batch: int,
    policies: Iterable[Any] = (),
    compile_default: bool | None = None,
    prefix_caching: bool = False,
    share_rows: bool = False,
) -> PairSource:
    """Describe a pair, so that whoever is to hold it can load it.

    Args:
        models: the pair as the user named it, resolved.
        max_batch: requests at a time.
        policies: policies that will be used, each on `max_batch` requests; the cache gets rows for
            all of their candidates.
        compile_default: whether to compile if the user did not say; None: for long runs.
        prefix_caching: see `stet.load_pair`.
        share_rows: have rows for `max_batch` requests and the candidates of one of them at a time,
            where few requests have any; others with candidates wait for those.
    """
    from stet.executors.source import PairSource
    from stet.requests.methods import rows_of

    each = max((rows_of(policy) for policy in policies), default=1)
    compile = compile_default if models.compile is None else models.compile
    arguments = {
        "target": models.make_target(),
        "draft": models.draft,
        "max_batch": max_batch,
        "max_rows": max_batch + each - 1 if share_rows else max_batch * each,
        "compile": "auto" if compile is None else compile,
        "dtype": models.dtype,
        "device": models.device,
        "revision": models.revision,
        "draft_revision": models.draft_revision,
        "trust_remote_code": models.trust_remote_code,
        "self_check": models.self_check,
        "packed": "auto" if models.packed is None else models.packed,
        "quantize": models.quantize,
        "draft_quantize": models.draft_quantize,
        "max_length": models.max_length,
        "cache_memory": models.cache_memory,
        "prefix_caching": prefix_caching,
    }
    return PairSource(arguments, warm_up=models.compile is True)


def load(
    models: ModelOptions,
    *,
    max_batch: int,
    policies: Iterable[Any] = (),
    compile_default: bool | None = None,
    prefix_caching: bool = False,
    share_rows: bool = False,
) -> Pair:
    """Load a pair, with a status line.

    Args:
        models: the pair as the user named it, resolved.
        max_batch: see `make_source`.
        policies: see `make_source`.
        compile_default: see `make_source`.
        prefix_caching: see `stet.load_pair`.
        share_rows: see `make_source`.

    Raises:
        StetError: where the pair cannot be loaded or run faithfully.
    """
    models.check_target()
    named = (None if models.is_remote else models.target, models.draft)
    places = [place for place in named if place is not None and place != "lookup"]
    if all(Path(place).exists() for place in places) or not err.is_terminal:
        # Nothing is downloaded, or there is no terminal: no bars that flash by. transformers, too,
        # reads this when it is imported.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    what = " and ".join(Path(place).name for place in places) or "the bundled pair"
    if models.threads is not None:
        import torch

        torch.set_num_threads(models.threads)  # for reading and checking, too
    _keep_compiled_passes()
    with err.status(f"Loading {what} ..."):
        pair = make_source(
            models,
            max_batch=max_batch,
            policies=policies,
            compile_default=compile_default,
            prefix_caching=prefix_caching,
            share_rows=share_rows,
        ).load()
    if not models.is_remote:
        with err.status("Choosing threads ..."):
            from stet.executors.threads import set_threads

            set_threads(pair, models.threads)
    return pair
