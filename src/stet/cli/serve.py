"""`stet serve`: an OpenAI-compatible server in which every request chooses its policy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli.groups import OptionGroup, with_groups
from stet.cli.options import ModelOptions, load
from stet.cli.output import err
from stet.cli.parsing import parse_setting
from stet.core.errors import OptionError
from stet.core.parsing import value_of

if TYPE_CHECKING:
    from stet.policies import Policy

KEY_VARIABLE = "STET_API_KEY"


@dataclass(frozen=True, slots=True)
class PolicyChoice(OptionGroup):
    """Which policies requests may choose."""

    panel = "Policies"

    policy: Annotated[
        str, typer.Option(help="The policy of requests that choose none: a name, or a file.")
    ] = "exact"
    param: Annotated[
        list[str] | None,
        typer.Option("--param", help="A parameter of it, NAME=VALUE. May be repeated."),
    ] = None
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help='A lossy policy that requests may choose, by name; or "all". May be repeated.',
            show_default="none",
        ),
    ] = None
    lossless: Annotated[
        bool,
        typer.Option(
            "--lossless/--no-lossless", help="Whether requests may choose every lossless policy."
        ),
    ] = True
    offer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=POLICY",
            help="Offer a policy, or the file of a calibrated one, under a name of your own. May "
            "be repeated.",
        ),
    ] = None

    def build(self) -> tuple[str, dict[str, str | Policy]]:
        """The default policy's name, and the policies that have names of the operator's."""
        from stet.policies import resolve
        from stet.serve.policies import ALONE

        named: dict[str, str | Policy] = {}
        for text in self.offer or ():
            name, place = parse_setting(text, "--offer")
            named[name] = place if place in ALONE else resolve(place)
        default = self.policy
        given = dict(parse_setting(text, "--param") for text in self.param or ())
        if given or default.endswith(".json"):
            if default in ALONE or default in named:
                raise OptionError(f"--param does not go with --policy {default}.")
            policy = resolve(default, {name: value_of(text) for name, text in given.items()})
            default = policy.name
            named[default] = policy
        return default, named


@dataclass(frozen=True, slots=True)
class Place(OptionGroup):
    """Where the server is, and who may use it."""

    panel = "Network"

    host: Annotated[
        str, typer.Option(help="Address to listen at; beyond this machine only with a key.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any.")] = 8000
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar=KEY_VARIABLE,
            help="What requests must carry as a bearer token. Better in the environment.",
            show_default=False,
        ),
    ] = None
    no_key: Annotated[
        bool,
        typer.Option("--no-key", help="Listen beyond this machine without a key all the same."),
    ] = False
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which the server may be addressed. May be repeated."),
    ] = None
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="A web page's origin that may use it, such as https://example.org. May be "
            "repeated."
        ),
    ] = None

    def check(self) -> None:
        """Refuse a server that anybody could use.

        Raises:
            OptionError: it listens beyond the machine without a key.
        """
        from stet.serve.settings import LOOPBACK

        near = self.host in LOOPBACK or self.host.startswith("127.")
        if not near and self.api_key is None and not self.no_key:
            raise OptionError(
                f"At {self.host} others can reach the server; set a key in {KEY_VARIABLE}, or give "
                "--no-key."
            )


@dataclass(frozen=True, slots=True)
class Bounds(OptionGroup):
    """How much the server takes."""

    panel = "Bounds"

    max_batch: Annotated[int, typer.Option(min=1, help="Sequences decoded at a time.")] = 16
    max_queue: Annotated[
        int, typer.Option(min=0, help="Sequences that may wait; more are refused (429).")
    ] = 256
    max_choices: Annotated[
        int, typer.Option(min=1, help="Sequences of one request: prompts times n.")
    ] = 128
    max_prompt: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a prompt.", show_default="what fits")
    ] = None
    max_output: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer.", show_default="what fits")
    ] = None
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 4 * 2**20
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds after which a request ends with what it has.")
    ] = 600.0
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to finish requests when told to stop.")
    ] = 30.0


@dataclass(frozen=True, slots=True)
class Answers(OptionGroup):
    """What responses and logs say."""

    panel = "Output"

    name: Annotated[
        str | None,
        typer.Option(
            "--served-model-name",
            help="What clients call the model.",
            show_default="the target's name",
        ),
    ] = None
    metrics: Annotated[
        str,
        typer.Option(
            metavar="none|summary|detailed|trace",
            help="How much a response says of its speculation where the request does not ask.",
        ),
    ] = "none"
    prefix_caching: Annotated[
        bool,
        typer.Option(
            "--prefix-caching/--no-prefix-caching",
            help="Keep texts in the caches, so that a chat's next turn is read from where it is "
            "new.",
        ),
    ] = True
    log_requests: Annotated[
        bool, typer.Option("--log/--no-log", help="Write a line of JSON for each request.")
    ] = True
    log_texts: Annotated[
        bool, typer.Option("--log-texts", help="With prompts and answers in it.")
    ] = False


@with_groups
def command(
    models: ModelOptions,
    policies: PolicyChoice,
    place: Place,
    bounds: Bounds,
    answers: Answers,
) -> None:
    """Serve a pair to OpenAI's clients; every request may choose its policy.

    Requests name a policy as extra_body={"speculation": {"policy": "specguard"}}
    or as the model stet/specguard. Lossless policies only, unless you --allow
    others. Open the address in a browser to watch answers being written.
    """
    place.check()
    models = models.resolve()
    models.check_target()
    try:
        from stet.serve.logs import Log
        from stet.serve.server import hosts_of, listen, run
        from stet.serve.settings import ServeSettings
    except ModuleNotFoundError as error:
        raise OptionError(
            f"The server needs {error.name}: pip install 'stet-decoding[serve]'."
        ) from error
    default, named = policies.build()
    allow = tuple(policies.allow or ())
    settings = ServeSettings(
        model=answers.name or ("stet-bundled" if models.target is None else None),
        default=default,
        named=named,
        lossless=policies.lossless,
        allow=allow,
        level=_level(answers.metrics),
        api_key=place.api_key,
        origins=tuple(place.allow_origin or ()),
        hosts=hosts_of(place.host, tuple(place.allow_host or ())),
        max_queue=bounds.max_queue,
        max_body=bounds.max_body,
        max_choices=bounds.max_choices,
        max_prompt=bounds.max_prompt,
        max_output=bounds.max_output,
        timeout=bounds.timeout,
        grace=bounds.grace,
        log_texts=answers.log_texts,
    )
    listener = listen(place.host, place.port)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    pair = load(
        models,
        max_batch=bounds.max_batch,
        policies=_offered(default, named, allow),
        prefix_caching=answers.prefix_caching,
        share_rows=True,
    )
    port = listener.getsockname()[1]
    host = f"[{place.host}]" if ":" in place.host else place.host

    def ready() -> None:
        err.print(f"Serving [bold]{pair.target.name}[/] at http://{host}:{port} ...")

    with pair:
        run(
            pair,
            settings,
            listener,
            log=Log() if answers.log_requests else Log(None),
            on_ready=ready,
        )


def _offered(default: str, named: dict[str, Any], allow: tuple[str, ...]) -> list[Any]:
    """The policies that may need more than a row of the caches."""
    from stet.serve.policies import ALL, every_name

    names = every_name() if ALL in allow else list(allow)
    return [*named.values(), *(name for name in [*names, default] if name not in named)]


def _level(text: str) -> Any:
    from typing import get_args

    from stet.serve.settings import Level

    known = get_args(Level)
    if text not in known:
        raise OptionError(f"--metrics is {text!r}; choose from {', '.join(known)}.")
    return text
