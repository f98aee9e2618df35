"""Options about the length of answers and how their tokens are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from stet.cli.groups import OptionGroup
from stet.cli.parsing import parse_logit_bias

SAMPLING = "Sampling"

Temperature = Annotated[
    float,
    typer.Option(
        help="0 takes the most probable token; above 0 samples.", rich_help_panel=SAMPLING
    ),
]


def longest_answer(*names: str, show_default: str) -> Any:
    """The option `--max-new-tokens`, with further names and a default that is told in words."""
    return typer.Option(
        "--max-new-tokens", *names, min=1, help="Longest answer.", show_default=show_default
    )


TaskLength = Annotated[int | None, longest_answer(show_default="the task's own")]


@dataclass(frozen=True, slots=True)
class SamplingOptions(OptionGroup):
    """The length of answers, and the temperature."""

    panel = SAMPLING

    max_new_tokens: Annotated[
        int | None, longest_answer("-n", show_default="256, or what fits")
    ] = None
    temperature: Temperature = 0.0


@dataclass(frozen=True, slots=True)
class RequestOptions(SamplingOptions):
    """How the tokens of a request are chosen, and when it ends."""

    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0: all.")] = 0
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this sum.")] = 1.0
    min_p: Annotated[
        float, typer.Option(help="Keep tokens with this share of the likeliest one.")
    ] = 0.0
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            help="Above 1 makes used tokens less likely.",
            show_default="as the target's generation_config.json says, or 1",
        ),
    ] = None
    frequency_penalty: Annotated[
        float, typer.Option(help="Above 0 makes tokens less likely the more the answer has.")
    ] = 0.0
    presence_penalty: Annotated[
        float, typer.Option(help="Above 0 makes tokens less likely that the answer has.")
    ] = 0.0
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(help="Add to a token's logit, ID=VALUE. May be repeated."),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same seed gives the same text.",
            show_default="drawn where sampled, and reported",
        ),
    ] = None
    stop: Annotated[list[str] | None, typer.Option(help="End at this text. May be repeated.")] = (
        None
    )
    stop_token_id: Annotated[
        list[int] | None,
        typer.Option(help="End at this token, beside the model's own. May be repeated."),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(help="End a request after so many seconds.", show_default=False),
    ] = None

    def settings(self) -> dict[str, Any]:
        """These options as `Pair.generate` takes them.

        Raises:
            OptionError: for a logit bias that is not a token id and a number.
        """
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "logit_bias": parse_logit_bias(self.logit_bias) if self.logit_bias else None,
            "seed": self.seed,
            "stop": tuple(self.stop or ()),
            "stop_token_ids": tuple(self.stop_token_id or ()),
            "timeout": self.timeout,
        }
