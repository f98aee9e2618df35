"""OpenVINO GenAI as a peer: it reads GGUF files, and has a draft model and prompt lookup."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from serve import Answering, serve


def converted(path: str) -> str:
    """The folder with OpenVINO's own form of a GGUF file; a draft is read from nothing else."""
    folder = Path(path).parent
    if not (folder / "openvino_model.xml").exists():
        genai.LLMPipeline(path, "CPU", enable_save_ov_model=True)
    return str(folder)


def load(options: dict[str, Any]) -> tuple[dict[str, Any], Answering]:
    """One way of decoding is one pipeline, so a worker has one `mode`: target, draft or lookup."""
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": options["threads"]}
    mode = options["mode"]
    more: dict[str, Any] = {}
    if mode == "draft":
        more["draft_model"] = genai.draft_model(converted(options["draft"]), "CPU", **properties)
    elif mode == "lookup":
        more["prompt_lookup"] = True
    if mode != "target":
        schedule = genai.SchedulerConfig()
        schedule.enable_prefix_caching = False
        schedule.cache_size = 1  # GiB
        more["scheduler_config"] = schedule
    pipeline = genai.LLMPipeline(options["target"], "CPU", **more, **properties)
    ends = set(options["ends"])

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        config = genai.GenerationConfig()
        config.max_new_tokens = request["max_new_tokens"]
        config.do_sample = False
        config.repetition_penalty = 1.0
        config.stop_token_ids = ends
        config.apply_chat_template = False
        length = request["setting"].get("length")  # of a speculating mode
        if length is not None:
            config.num_assistant_tokens = length
        if mode == "lookup":
            config.max_ngram_size = 3
        began = time.perf_counter()
        found = pipeline.generate(ov.Tensor(np.array([request["prompt"]], dtype=np.int64)), config)
        seconds = time.perf_counter() - began
        first = found.perf_metrics.get_ttft().mean / 1000
        answer = {"tokens": list(found.tokens[0]), "seconds": seconds, "first_seconds": first}
        if mode != "draft":
            return answer
        accepted = found.extended_perf_metrics.get_num_accepted_tokens()
        return answer | {"drafted": None, "accepted": accepted}

    about = {"version": f"OpenVINO GenAI {genai.__version__}", "threads": options["threads"]}
    return about, answer


if __name__ == "__main__":
    serve(load)
