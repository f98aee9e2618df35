"""An OpenAI-compatible server in which every request chooses its policy."""

from stet.serve.app import make_app
from stet.serve.settings import ServeSettings

__all__ = ["ServeSettings", "make_app"]
