"""Models: loading, checks, tokenizers, and how much memory they need."""

from stet.core.head import LogitHead
from stet.core.model import LoadedModel, Role
from stet.models.loading import load_model, prepare_model
from stet.models.memory import MemoryPlan, ModelMemory, plan_memory
from stet.models.tokenizers import check_same_tokenizer, tokenizer_hash

__all__ = [
    "LoadedModel",
    "LogitHead",
    "MemoryPlan",
    "ModelMemory",
    "Role",
    "check_same_tokenizer",
    "load_model",
    "plan_memory",
    "prepare_model",
    "tokenizer_hash",
]
