"""Check the documentation: relative links lead somewhere, `stet` commands in it parse.

A command is any line of a fenced `sh` or `console` block that starts with `stet` (or `$ stet`).
It is parsed, with all its options, but not run.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import api
import figures
import typer

from stet.cli import app

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)


def pages() -> list[Path]:
    found = [*ROOT.glob("*.md")]
    for folder in ("docs", "recipes", "benchmarks", "examples", "src"):
        found += (ROOT / folder).rglob("*.md")
    return sorted(found)


def anchors(text: str) -> set[str]:
    """The names under which headings can be linked to."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        goal = (page.parent / path) if path else page
        if not goal.exists():
            yield f"link to {link}, which does not exist"
        elif anchor and goal.suffix == ".md" and anchor not in anchors(goal.read_text("utf-8")):
            yield f"link to {link}: no such heading"


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every `stet` command in the page's shell blocks."""
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language not in {"sh", "console", "bash", "shell"}:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if line.startswith("stet "):
                words = shlex.split(line, comments=True)
                ends = [i for i, word in enumerate(words) if word in {"|", ">", ">>", "&&", "<"}]
                yield words[1 : min(ends, default=len(words))]


def refusal(arguments: list[str]) -> str | None:
    """Why a command line does not parse, or None where it does."""
    group = typer.main.get_command(app)
    try:
        context = group.make_context("stet", list(arguments))
        name, command, rest = group.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        command.make_context(name, rest, parent=context)
    except typer.Exit:
        return None  # --help and --version
    except Exception as error:
        return getattr(error, "message", "") or repr(error)
    return None


def main() -> int:
    problems = []
    n_commands = 0
    for page in pages():
        name = page.relative_to(ROOT)
        problems += [f"{name}: {problem}" for problem in broken_links(page)]
        text = page.read_text(encoding="utf-8")
        if figures.filled(text) != text:
            problems.append(f"{name}: figures are out of date; run `python docs/figures.py`")
        for arguments in commands(page):
            n_commands += 1
            if why := refusal(arguments):
                problems.append(f"{name}: `stet {shlex.join(arguments)}`: {why}")
    if api.PAGE.read_text(encoding="utf-8") != api.page():
        problems.append("docs/api.md: out of date; run `python docs/api.py`")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    print(f"documentation: {len(pages())} pages, {n_commands} commands, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
