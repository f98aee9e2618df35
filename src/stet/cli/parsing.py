"""Functions that parse the text of options."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from typing import Any

from stet.core.errors import OptionError
from stet.core.parsing import value_of


def parse_policy(name: str, parameters: Iterable[str]) -> Any:
    """The policy that `--policy NAME --param name=value ...` names.

    Raises:
        OptionError: for a name or parameter that does not exist, or text that is not `name=value`.
    """
    values = dict(parse_setting(text, "--param") for text in parameters)
    if not values:
        return name
    from stet.policies import resolve

    return resolve(name, {key: value_of(text) for key, text in values.items()})


def parse_setting(text: str, option: str) -> tuple[str, str]:
    """Split `name=value`.

    Raises:
        OptionError: where there is no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise OptionError(f"{option} {text!r} is not of the form name=value.")
    return name.strip(), value.strip()


def parse_logit_bias(entries: Iterable[str]) -> dict[int, float]:
    """The bias of each token id that `--logit-bias ID=VALUE ...` sets.

    Raises:
        OptionError: for what is not a token id and a number.
    """
    bias: dict[int, float] = {}
    for entry in entries:
        token, value = parse_setting(entry, "--logit-bias")
        try:
            bias[int(token)] = float(value)
        except ValueError as error:
            raise OptionError(f"--logit-bias {entry!r} is not a token id and a number.") from error
    return bias


def parse_draft_length(text: str) -> int | str:
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


def command_line() -> str:
    """The command as the user typed it, for a record of how something was made."""
    return shlex.join(["stet", *sys.argv[1:]])
