"""Options about chats, which several commands share: the template, the system prompt, arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli.options import pair_of
from stet.cli.output import err
from stet.core.errors import OptionError
from stet.core.parsing import value_of

if TYPE_CHECKING:
    from stet.pair import Pair
    from stet.requests.chat import Chat
    from stet.requests.inputs import Prompt

PANEL = "Chat"

InChat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat",
        help="Put prompts into the model's chat template.",
        rich_help_panel=PANEL,
        show_default="where it has one",
    ),
]
System = Annotated[
    str | None,
    typer.Option(
        help="System prompt of these chats.",
        rich_help_panel=PANEL,
        show_default="the template's own",
    ),
]
TemplateArg = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg",
        help="An argument of the chat template, NAME=VALUE, the value in JSON or as text; such as "
        "enable_thinking=false. May be repeated.",
        rich_help_panel=PANEL,
    ),
]


def chat_of(in_chat: bool | None, system: str | None, arguments: Sequence[str] | None) -> Chat:
    """The chat settings that `--system` and `--template-arg` give.

    Raises:
        OptionError: they are given for prompts that are no chats.
    """
    from stet.requests.chat import Chat

    given = dict(pair_of(text, "--template-arg") for text in arguments or ())
    if in_chat is False and (system is not None or given):
        raise OptionError("--system and --template-arg need the chat template; drop --no-chat.")
    return Chat(system, {name: value_of(text) for name, text in given.items()})


def task_options(
    in_chat: bool | None, system: str | None, arguments: Sequence[str] | None
) -> dict[str, Any]:
    """The chat settings as options of `load_task`.

    Raises:
        OptionError: they are given for prompts that are no chats.
    """
    chat = chat_of(in_chat, system, arguments)
    return {"chat": in_chat, "system": chat.system, "template_args": chat.arguments}


def inputs(
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
    from stet.requests.chat import has_template

    asked = chat.system is not None or bool(chat.arguments)
    if in_chat is None:
        in_chat = asked or has_template(pair.tokenizer)
    if not in_chat:
        return list(texts)
    prompts: list[Prompt] = [chat.prompt(pair, text) for text in texts]
    if not quiet:
        announce(pair)
    return prompts


def announce(pair: Pair) -> None:
    """Print which model's chat template the prompts go through."""
    name = Path(pair.models[0].name).name
    err.print(
        f"[dim]Prompts go through the chat template of {name} (--no-chat: as they are).[/]",
        soft_wrap=True,
    )
