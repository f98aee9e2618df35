"""Where this package takes hold of vLLM, and the check that it finds what it was written for.

vLLM's public options do most of it. What has no option is listed here with its parameters; they are
compared with the sources of the vLLM that is installed, before anything is loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from stet.core.errors import LoadError

_MARK = "__stet__"

SUPPORTED = ((0, 32), (0, 33))
"""The oldest and the newest release that this package was tried with, or read."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A function of vLLM that is overridden, replaced or called.

    Attributes:
        file: below vLLM's package.
        name: of the function, with its class.
        parameters: their names, in order.
    """

    file: str
    name: str
    parameters: tuple[str, ...]


def _hook(file: str, name: str, parameters: str) -> Hook:
    return Hook(file, name, tuple(parameters.split()))


SHARED = (
    _hook("engine/arg_utils.py", "EngineArgs.create_engine_config", "self usage_context headless"),
    _hook(
        "v1/core/sched/scheduler.py",
        "Scheduler.update_from_output",
        "self scheduler_output model_runner_output",
    ),
    _hook(
        "v1/core/sched/scheduler.py",
        "Scheduler.make_spec_decoding_stats",
        "self spec_decoding_stats num_draft_tokens num_accepted_tokens num_invalid_spec_tokens "
        "request_id",
    ),
    _hook("entrypoints/generate/base/serving.py", "build_spec_decoding_metrics", "final_res"),
)
"""What both model runners need."""

V2 = (
    _hook(
        "v1/worker/gpu/spec_decode/rejection_sampler.py",
        "RejectionSampler.__init__",
        "self sampler spec_config device watermark_key",
    ),
    _hook(
        "v1/worker/gpu/spec_decode/rejection_sampler.py",
        "RejectionSampler._verify",
        "self logits draft_logits draft_sampled pos cu_num_logits idx_mapping idx_mapping_np "
        "expanded_idx_mapping expanded_local_pos seq_lens_upper_bound_np verify_draft_sampled",
    ),
    _hook(
        "v1/worker/gpu/spec_decode/rejection_sampler.py",
        "RejectionSampler.__call__",
        "self logits input_batch draft_logits invalid_drafts",
    ),
    _hook(
        "v1/worker/gpu/sample/sampler.py",
        "Sampler.apply_sampling_params",
        "self logits expanded_idx_mapping idx_mapping idx_mapping_np pos input_ids "
        "expanded_local_pos seq_lens_upper_bound_np skip_top_k_top_p",
    ),
    _hook(
        "v1/worker/gpu/async_utils.py",
        "AsyncOutput.__init__",
        "self model_runner_output sampler_output num_sampled_tokens main_stream copy_stream "
        "check_ep_fault pending_aux_output",
    ),
    _hook("v1/worker/gpu/async_utils.py", "AsyncOutput.get_output", "self"),
    _hook(
        "v1/worker/gpu/sample/logits_processor/interface.py",
        "LogitsProcessor.add_request",
        "self req_idx sampling_params",
    ),
    _hook(
        "v1/worker/gpu/sample/logits_processor/interface.py",
        "LogitsProcessor.validate_params",
        "cls sampling_params",
    ),
    _hook(
        "v1/worker/gpu/sample/logits_processor/interface.py",
        "LogitsProcessor.apply",
        "self logits ctx",
    ),
)
"""What the newer model runner needs, which GPUs use."""

V1 = (
    _hook(
        "v1/sample/rejection_sampler.py",
        "RejectionSampler.forward",
        "self metadata draft_probs logits sampling_metadata",
    ),
    _hook(
        "v1/sample/rejection_sampler.py",
        "RejectionSampler.apply_logits_processors",
        "self logits sampling_metadata metadata",
    ),
    _hook(
        "v1/sample/rejection_sampler.py",
        "RejectionSampler._get_logprobs_tensors",
        "self max_num_logprobs metadata logits target_logits bonus_logits sampled_token_ids",
    ),
    _hook(
        "v1/sample/sampler.py",
        "Sampler.apply_logits_processors",
        "self logits sampling_metadata predict_bonus_token",
    ),
    _hook(
        "v1/spec_decode/llm_base_proposer.py",
        "SpecDecodeBaseProposer._sample_draft_tokens",
        "self hidden_states sampling_metadata",
    ),
    _hook(
        "v1/spec_decode/draft_model.py",
        "DraftModelProposer.__init__",
        "self vllm_config device runner",
    ),
    _hook(
        "v1/worker/gpu_model_runner.py",
        "GPUModelRunner.sample_tokens",
        "self grammar_output",
    ),
    _hook(
        "v1/engine/input_processor.py",
        "InputProcessor._build_logits_processors_params_validator",
        "self",
    ),
)
"""What the older model runner needs, which CPUs use."""


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put a function around one of vLLM's, once: plug-ins may be loaded several times.

    Args:
        owner: the class or module that holds it.
        name: of the function.
        make: is given vLLM's function, and returns what calls it.
    """
    original = getattr(owner, name)
    if not hasattr(original, _MARK):
        made = wraps(original)(make(original))
        setattr(made, _MARK, True)
        setattr(owner, name, made)


def check_version(version: str) -> None:
    """Refuse a release that this package does not know.

    Raises:
        LoadError: it is outside of `SUPPORTED`.
    """
    oldest, newest = SUPPORTED
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not oldest <= numbers <= newest:
        listed = " to ".join(".".join(map(str, release)) for release in SUPPORTED)
        raise LoadError(f"stet-vllm works with vLLM {listed}, and {version} is installed.")


def check_signatures(root: Path, hooks: Iterable[Hook]) -> None:
    """Compare what is hooked with the sources of vLLM.

    Args:
        root: the folder of vLLM's package.
        hooks: what is looked for.

    Raises:
        LoadError: naming the first function that is not there, or has other parameters.
    """
    sources: dict[str, Mapping[str, tuple[str, ...]]] = {}
    for hook in hooks:
        if hook.file not in sources:
            path = root / hook.file
            sources[hook.file] = signatures(path.read_text("utf-8")) if path.is_file() else {}
        found = sources[hook.file].get(hook.name)
        if found != hook.parameters:
            what = "is not there" if found is None else f"takes ({', '.join(found)})"
            raise LoadError(
                f"This vLLM is not one that stet-vllm was written for: {hook.name} in {hook.file} "
                f"{what}, where ({', '.join(hook.parameters)}) was expected; use another release "
                "of either."
            )


def signatures(source: str) -> dict[str, tuple[str, ...]]:
    """The parameters of all functions of a file, and of its classes' methods, by their names."""
    found: dict[str, tuple[str, ...]] = {}
    for node in ast.parse(source).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        start = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for member in members:
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                given = member.args
                names = [*given.posonlyargs, *given.args, *given.kwonlyargs]
                found[start + member.name] = tuple(argument.arg for argument in names)
    return found
