"""Setting up an engine: what its configuration must be for policies to decide in it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stet.core.errors import OptionError
from stet_vllm.desk import ENTRY, Desk, read_settings
from stet_vllm.hooks import SHARED, V1, V2, check_signatures, check_version, wrap
from stet_vllm.pairing import check_pair

log = logging.getLogger(__name__)

_REFUSED = (
    ("parallel_drafting", "drafts that are written in one pass"),
    ("use_heterogeneous_vocab", "models of two vocabularies"),
    ("enable_adaptive_verification", "adaptive verification"),
)


def attach() -> None:
    """Look at each configuration that vLLM makes, and change those that have an entry "stet"."""
    from vllm.engine.arg_utils import EngineArgs

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def create_engine_config(*args: Any, **kwargs: Any) -> Any:
            config = original(*args, **kwargs)
            if settings_in(config) is not None:
                configure(config)
            return config

        return create_engine_config

    wrap(EngineArgs, "create_engine_config", watched)


def settings_in(config: Any) -> Any:
    """The entry "stet" of a configuration, or None where there is none."""
    additional = getattr(config, "additional_config", None)
    return additional.get(ENTRY) if isinstance(additional, dict) else None


def desk_of(config: Any) -> Desk | None:
    """The policies of an engine, by its configuration; None where Stet is not asked for.

    Raises:
        OptionError: see `Desk`.
    """
    given = settings_in(config)
    return None if given is None else Desk(read_settings(given))


def configure(config: Any) -> None:
    """Change a configuration so that policies decide in its engine.

    Args:
        config: a `VllmConfig` that asks for it.

    Raises:
        LoadError: this vLLM is not one that the package knows.
        OptionError: an option that policies cannot be used with, or settings that are wrong.
    """
    import vllm

    newer = bool(config.use_v2_model_runner)
    check_version(vllm.__version__)
    check_signatures(Path(vllm.__file__).parent, (*SHARED, *(V2 if newer else V1)))
    check_options(config, newer)
    desk = desk_of(config)
    assert desk is not None
    if desk.settings.check_pair:
        check_pair(config, desk)
    # The draft's own distributions are kept, for whoever reads them.
    config.speculative_config.draft_sample_method = "probabilistic"
    config.parallel_config.worker_extension_cls = f"stet_vllm.{'v2' if newer else 'v1'}.Extension"
    if newer:
        listed = config.model_config.logits_processors or []
        config.model_config.logits_processors = [*listed, "stet_vllm.v2:Requests"]
    from stet_vllm.admission import admit

    admit(desk, newer=newer)
    if desk.settings.trace:
        _trace(config)
    log.info("Stet decides which drafted tokens stand; by default %r does.", desk.default.name)


def check_options(config: Any, newer: bool) -> None:
    """Refuse what policies cannot be used with, each by its name.

    Raises:
        OptionError: for the first such option.
    """
    draft = config.speculative_config
    if draft is None or not draft.uses_draft_model():
        raise OptionError(
            "Stet decides between a draft model and a target; start vLLM with "
            '--speculative-config \'{"method": "draft_model", "model": ..., '
            '"num_speculative_tokens": ...}\'.'
        )
    for name, what in _REFUSED:
        if getattr(draft, name, False):
            raise OptionError(f"Stet's policies cannot be used with {what}; leave out {name}.")
    if draft.rejection_sample_method != "standard":
        raise OptionError(
            f"rejection_sample_method is {draft.rejection_sample_method!r}, where a policy of "
            "Stet's decides; leave it out."
        )
    if getattr(draft, "use_local_argmax_reduction", False):
        raise OptionError(
            "The draft's distributions are needed; leave out use_local_argmax_reduction."
        )
    if config.parallel_config.enable_batch_sharded_sampling:
        raise OptionError("Policies see whole batches; leave out enable_batch_sharded_sampling.")
    if getattr(config, "watermark_config", None) is not None:
        raise OptionError("Policies and watermarks cannot be used together; leave one of them out.")
    if config.parallel_config.worker_extension_cls:
        raise OptionError(
            "worker_extension_cls is taken by Stet, and names "
            f"{config.parallel_config.worker_extension_cls!r}; leave it out."
        )
    if not newer and config.scheduler_config.async_scheduling:
        raise OptionError(
            "The older model runner decides step by step; start vLLM with --no-async-scheduling, "
            "or use the newer one."
        )


def _trace(config: Any) -> None:
    """Have each answer say what became of its tokens.

    Raises:
        OptionError: the scheduler is another one already.
    """
    from stet_vllm.responses import show_records

    scheduler = config.scheduler_config
    if scheduler.scheduler_cls is not None:
        raise OptionError(
            f"scheduler_cls is {scheduler.scheduler_cls!r}, and traces come through a scheduler of "
            'Stet\'s; leave it out, or set "trace": false.'
        )
    name = "RecordingAsyncScheduler" if scheduler.async_scheduling else "RecordingScheduler"
    scheduler.scheduler_cls = f"stet_vllm.scheduler.{name}"
    if config.observability_config.per_request_spec_decode_metrics == "none":
        config.observability_config.per_request_spec_decode_metrics = "detailed"
    show_records()
