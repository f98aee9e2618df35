import itertools
import re
import resource
import subprocess
import sys

import pytest

from stet.core.errors import CompatibilityError

PROBE = """
import sys
from stet.cli import app
try:
    app({arguments!r})
except SystemExit as ended:
    heavy = [m for m in ("torch", "transformers", "numpy") if m in sys.modules]
    sys.exit(f"{{ended.code}}: {{heavy}}" if ended.code or heavy else 0)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--help"]])
def test_help_needs_no_heavy_import(arguments):
    code = PROBE.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_is_fast():
    def spent():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = spent()
    subprocess.run([sys.executable, "-m", "stet.cli", "--help"], capture_output=True, check=True)
    # Processor time, for a busy machine must not fail this: 0.25 s, against 4 s with torch.
    assert spent() - before < 0.8


def test_help_names_every_command_with_examples(run):
    text = run("--help").stdout
    for word in ("demo", "generate", "doctor", "policies", "Examples", "Exit codes"):
        assert word in text


def test_help_lines_fit_a_narrow_terminal(run):
    for arguments in (["--help"], ["generate", "--help"], ["doctor", "--help"]):
        text = run(*arguments).stdout
        # A paragraph that was broken twice shows as a line of one or two words inside it.
        prose = text.split("╭")[0]
        lines = [line.strip() for line in prose.splitlines()]
        short = [a for a, b in itertools.pairwise(lines) if b and 0 < len(a) < 50]
        assert not short, short


def test_version(run):
    result = run("--version")
    assert re.fullmatch(r"stet \d+\.\d+\.\d+\n", result.stdout)
    assert result.exit_code == 0


@pytest.mark.parametrize("arguments", [["generate", "--bogus", "hello"], ["bogus"]])
def test_unknown_options_and_commands_are_refused(run, loader, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "bogus" in result.stderr
    assert not loader.pair.calls


def test_an_error_is_one_sentence_without_traceback(run, loader):
    loader.error = CompatibilityError("The tokenizers differ at token 7; choose another draft.")
    result = run("generate", "hello")
    assert result.exit_code == 2
    assert result.stdout == ""
    told = " ".join(result.stderr.split())
    assert told.endswith("Error: The tokenizers differ at token 7; choose another draft.")
    assert "Traceback" not in result.stderr


def test_an_error_is_printed_as_it_is(run, loader):
    loader.error = CompatibilityError("The layer [bold]x[/bold] is unknown.")
    assert "[bold]x[/bold]" in run("generate", "hello").stderr
