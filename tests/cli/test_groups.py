"""Option groups: dataclasses as parameters of a typer command."""

import inspect
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from stet.cli.groups import After, OptionGroup, with_groups


@dataclass(frozen=True, slots=True)
class Size(OptionGroup):
    panel = "Size"

    width: Annotated[int, typer.Option("--width", "-w", min=1, help="In metres.")] = 3
    height: Annotated[int, typer.Option(help="In metres.")] = 2
    weight: Annotated[float, typer.Option(rich_help_panel="Weights")] = 1.5


@dataclass(frozen=True, slots=True)
class BoxSize(Size):
    height: Annotated[int, typer.Option(help="In feet.")] = 7
    depth: Annotated[int, typer.Option(), After("width")] = 1


@dataclass(frozen=True, slots=True)
class Names(OptionGroup):
    name: Annotated[str, typer.Argument()]
    tag: Annotated[list[str] | None, typer.Option()] = None


class Undecorated(Size):
    extra: Annotated[int, typer.Option()] = 1


@dataclass(frozen=True)
class MadeByFactory(OptionGroup):
    tags: Annotated[list[str], typer.Option()] = field(default_factory=list)


@dataclass(frozen=True)
class Misplaced(OptionGroup):
    a: Annotated[int, typer.Option(), After("b")] = 1
    b: Annotated[int, typer.Option()] = 1


def build(size_group):
    """An application, the command as typer knows it, and what it is called with."""
    seen = []

    def command(
        names: Names,
        size: size_group,
        loud: Annotated[bool, typer.Option("--loud")] = False,
    ) -> None:
        """Pack a box."""
        seen.append((names, size, loud))

    app = typer.Typer()
    app.command()(with_groups(command))
    return app, get_command(app), seen


def test_a_command_gets_its_groups():
    app, _, seen = build(Size)
    result = CliRunner().invoke(app, ["Ann", "-w", "5", "--tag", "a", "--tag", "b", "--loud"])
    assert result.exit_code == 0, result.output
    assert seen == [(Names("Ann", ["a", "b"]), Size(5, 2, 1.5), True)]


def test_what_is_not_given_has_its_default():
    app, _, seen = build(BoxSize)
    assert CliRunner().invoke(app, ["Ann"]).exit_code == 0
    assert seen == [(Names("Ann"), BoxSize(), False)]


@pytest.mark.parametrize("words", [[], ["Ann", "-w", "0"], ["Ann", "--depth", "1"]])
def test_typer_checks_the_options_of_a_group(words):
    app, _, seen = build(Size)
    assert CliRunner().invoke(app, words).exit_code == 2
    assert not seen


def test_options_come_in_the_order_of_the_groups_in_their_panels():
    _, command, _ = build(Size)
    panels = [(option.name, option.rich_help_panel) for option in command.params]
    assert panels[:5] == [
        ("name", None),
        ("tag", None),
        ("width", "Size"),
        ("height", "Size"),
        ("weight", "Weights"),
    ]
    assert command.help == "Pack a box."


def test_a_group_that_inherits_says_where_it_differs():
    _, command, _ = build(BoxSize)
    options = {option.name: option for option in command.params}
    assert [*options][2:6] == ["width", "depth", "height", "weight"]
    assert (options["height"].help, options["height"].default) == ("In feet.", 7)
    assert options["depth"].rich_help_panel == "Size"


def test_a_shared_option_is_not_changed_by_a_panel():
    shared = Annotated[int, typer.Option()]

    @dataclass(frozen=True)
    class Here(OptionGroup):
        panel = "Here"
        one: shared = 1

    def command(here: Here) -> None: ...

    flat = inspect.signature(with_groups(command)).parameters["one"].annotation
    assert flat.__metadata__[0].rich_help_panel == "Here"
    assert shared.__metadata__[0].rich_help_panel is None


def test_a_command_can_be_called_with_flat_values():
    seen = []

    @with_groups
    def command(size: Size, *, loud: bool = False) -> None:
        seen.append((size, loud))

    command(width=9)
    assert seen == [(Size(width=9), False)]
    with pytest.raises(TypeError, match="colour"):
        command(colour="red")


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        (Undecorated, "Undecorated is no dataclass"),
        (MadeByFactory, "MadeByFactory.tags needs a plain default"),
        (Misplaced, "'a' cannot come after 'b'"),
        (BoxSize, "two options named 'width'"),
    ],
)
def test_groups_that_cannot_be_taken_are_refused(group, sentence):
    def command(one: group, two: Size) -> None: ...

    with pytest.raises(TypeError, match=sentence):
        with_groups(command)
