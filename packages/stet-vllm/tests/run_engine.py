"""Runs one engine of vLLM on a job: JSON on standard input, JSON into the file that it names.

A process of its own, since the model runner is chosen by the environment, once.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    job: dict[str, Any] = json.load(sys.stdin)
    answer = run(job)
    Path(job["answer"]).write_text(json.dumps(answer))


def run(job: dict[str, Any]) -> dict[str, Any]:
    if job.get("interpreted"):
        from interpreter import mend

        mend()
    import vllm
    from vllm import LLM, SamplingParams
    from vllm.exceptions import VLLMValidationError

    if job.get("async_scheduling"):
        plan_ahead()
    additional = {} if job["settings"] is None else {"stet": job["settings"]}
    began = time.monotonic()
    engine = LLM(
        model=job["target"],
        speculative_config=job["draft"]
        and {
            "method": "draft_model",
            "model": job["draft"],
            "num_speculative_tokens": job["k"],
            "draft_tensor_parallel_size": job.get("ranks", 1),
        },
        tensor_parallel_size=job.get("ranks", 1),
        additional_config=additional,
        dtype=job.get("dtype", "float32"),
        max_model_len=job.get("max_model_len", 512),
        max_num_seqs=job.get("max_num_seqs", 16),
        enforce_eager=True,
        enable_prefix_caching=False,
        async_scheduling=job.get("async_scheduling", False),
        disable_log_stats=False,
        seed=0,
    )
    started = time.monotonic() - began
    found: list[dict[str, Any]] = []
    seconds: list[float] = []
    for batch in job["batches"]:
        prompts = [{"prompt_token_ids": asked["prompt"]} for asked in batch]
        parameters = [SamplingParams(**asked["sampling"]) for asked in batch]
        began = time.monotonic()
        try:
            outputs = engine.generate(prompts, parameters, use_tqdm=False)
        except VLLMValidationError as error:
            found += [{"refused": str(error)}] * len(batch)
            continue
        seconds.append(time.monotonic() - began)
        for output in outputs:
            one = output.outputs[0]
            metrics = one.spec_decode_metrics
            found.append(
                {
                    "tokens": list(one.token_ids),
                    "stet": (output.kv_transfer_params or {}).get("stet"),
                    "metrics": metrics and metrics.to_dict(),
                    "logprobs": one.logprobs
                    and [one.logprobs[i][token].logprob for i, token in enumerate(one.token_ids)],
                }
            )
    config = engine.llm_engine.vllm_config
    counters = {
        metric.name: metric.value
        for metric in engine.get_metrics()
        if metric.name.startswith("vllm:spec_decode") and hasattr(metric, "value")
    }
    return {
        "version": vllm.__version__,
        "found": found,
        "seconds": seconds,
        "started": started,
        "counters": counters,
        "newer": bool(config.use_v2_model_runner),
        "ahead": bool(config.scheduler_config.async_scheduling),
    }


def plan_ahead() -> None:
    """Allow what vLLM's platform for CPUs switches off, and its model runner can do."""
    from vllm.platforms.cpu import CpuPlatform

    update = CpuPlatform.check_and_update_config.__func__

    @classmethod
    def check(cls: Any, vllm_config: Any) -> None:
        update(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = check


if __name__ == "__main__":
    main()
