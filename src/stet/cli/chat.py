"""Options about chats, which several commands share, and prompts in a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli.groups import OptionGroup
from stet.cli.output import err
from stet.cli.parsing import parse_setting
from stet.core.errors import OptionError
from stet.core.parsing import value_of

if TYPE_CHECKING:
    from stet.pair import Pair
    from stet.requests.chat import Chat
    from stet.requests.inputs import Prompt


@dataclass(frozen=True, slots=True)
class ChatOptions(OptionGroup):
    """Whether prompts go through the target's chat template, and with what."""

    panel = "Chat"

    in_chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Put prompts into the model's chat template.",
            show_default="where it has one",
        ),
    ] = None
    system: Annotated[
        str | None,
        typer.Option(help="System prompt of these chats.", show_default="the template's own"),
    ] = None
    template_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--template-arg",
            help="An argument of the chat template, NAME=VALUE, the value in JSON or as text; "
            "such as enable_thinking=false. May be repeated.",
        ),
    ] = None

    def settings(self) -> Chat:
        """The chat settings that `--system` and `--template-arg` give.

        Raises:
            OptionError: they are given for prompts that are no chats.
        """
        from stet.requests.chat import Chat

        given = dict(parse_setting(text, "--template-arg") for text in self.template_arg or ())
        if self.in_chat is False and (self.system is not None or given):
            raise OptionError("--system and --template-arg need the chat template; drop --no-chat.")
        return Chat(self.system, {name: value_of(text) for name, text in given.items()})

    def task_settings(self) -> dict[str, Any]:
        """The chat settings as options of `load_task`.

        Raises:
            OptionError: they are given for prompts that are no chats.
        """
        chat = self.settings()
        return {"chat": self.in_chat, "system": chat.system, "template_args": chat.arguments}


def put_into_chat(
    pair: Pair, texts: Sequence[str], in_chat: bool | None, chat: Chat, *, quiet: bool = False
) -> list[Prompt]:
    """Put texts into the chat template where they belong into one, and print a line that says so.

    Args:
        pair: the models; the template is theirs.
        texts: the users' questions.
        in_chat: as the user said; None: in a chat where there is a template.
        chat: system prompt and arguments of the template.
        quiet: print nothing.

    Raises:
        OptionError: a chat was asked for, and there is no template, or the template refuses it.
    """
    if not goes_into_chat(pair, in_chat, chat):
        return list(texts)
    prompts: list[Prompt] = [chat.prompt(pair, text) for text in texts]
    if not quiet:
        announce(template_of(pair))
    return prompts


def goes_into_chat(pair: Pair, in_chat: bool | None, chat: Chat) -> bool:
    """Whether texts belong into the chat template.

    Args:
        pair: the models; the template is theirs.
        in_chat: as the user said; None: where there is a template.
        chat: system prompt and arguments of the template.
    """
    from stet.requests.chat import has_template

    asked = chat.system is not None or bool(chat.arguments)
    return (asked or has_template(pair.tokenizer)) if in_chat is None else in_chat


def template_of(pair: Pair) -> str:
    """The name of the model whose chat template the prompts of a pair go through."""
    return Path(pair.models[0].name).name


def announce(name: str) -> None:
    """Print which model's chat template the prompts go through."""
    err.print(
        f"[dim]Prompts go through the chat template of {name} (--no-chat: as they are).[/]",
        soft_wrap=True,
    )
