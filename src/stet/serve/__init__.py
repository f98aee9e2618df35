"""An OpenAI-compatible server in which every request chooses its policy."""

from stet.serve.app import Server
from stet.serve.settings import ServeSettings

__all__ = ["ServeSettings", "Server"]
