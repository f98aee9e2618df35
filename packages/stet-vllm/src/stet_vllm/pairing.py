"""Refusing policies that were fitted to another pair of models than the engine runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stet.core.errors import LoadError, OptionError
from stet.models.fingerprint import fingerprint_of_files
from stet_vllm.desk import Desk

_WEIGHTS = ("*.json", "*.safetensors")


def check_pair(config: Any, desk: Desk) -> None:
    """Compare the fingerprints that policies carry with that of the engine's models.

    Args:
        config: a `VllmConfig`.
        desk: the policies; where none is fitted to a pair nothing is read.

    Raises:
        OptionError: a policy belongs to another pair, or it cannot be told.
    """
    fitted = [choice for choice in desk.policies if choice.policy.pair is not None]
    if not fitted:
        return
    target, draft = config.model_config, config.speculative_config.draft_model_config
    try:
        folders = [_folder(model.model, model.revision) for model in (target, draft)]
        own = fingerprint_of_files(*folders, dtype=target.dtype)
    except (LoadError, OSError, ValueError) as error:
        raise OptionError(
            f"Policy {fitted[0].name!r} belongs to a pair of models, and whether this is it cannot "
            f'be told ({error}); if it is, set "check_pair": false.'
        ) from error
    for choice in fitted:
        if choice.policy.pair != own:
            raise OptionError(f"{choice.name!r}: {choice.policy.other_pair}")


def _folder(name: str, revision: str | None) -> Path:
    """The folder of a model, which is fetched from the hub as vLLM does."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=list(_WEIGHTS)))
