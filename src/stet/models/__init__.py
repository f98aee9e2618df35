"""Models: loading, checks, tokenizers, and how much memory they need."""

from stet.models.loading import load_model, prepare_model
from stet.models.model import LoadedModel, LogitHead, Role

__all__ = ["LoadedModel", "LogitHead", "Role", "load_model", "prepare_model"]
