"""`python -m stet.cli`: the command, where scripts are not on the path."""

from stet.cli import app

app(prog_name="stet")
