"""The command `stet`. Nothing heavy is imported before a command runs, so that help is instant."""

from stet.cli import demo, doctor, generate, policies  # noqa: F401  (each adds its command)
from stet.cli.application import app

__all__ = ["app"]
