"""vLLM on a CPU as a peer: target alone, or with a draft model."""

from __future__ import annotations

import time
from typing import Any

from serve import Answering, serve


def load(options: dict[str, Any]) -> tuple[dict[str, Any], Answering]:
    """The number of drafted tokens belongs to an engine, so it is an option of the worker."""
    from vllm import LLM, SamplingParams, __version__

    more: dict[str, Any] = {}
    if options.get("length") is not None:
        more["speculative_config"] = {
            "method": "draft_model",
            "model": options["draft"],
            "num_speculative_tokens": options["length"],
        }
    engine = LLM(
        model=options["target"],
        dtype=options["dtype"],
        max_model_len=options["context"],
        max_num_seqs=1,
        enforce_eager=options["eager"],
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        generation_config="vllm",  # so that no file sets a penalty
        **more,
    )

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked = SamplingParams(
            temperature=0.0,
            repetition_penalty=1.0,
            max_tokens=request["max_new_tokens"],
            stop_token_ids=options["ends"],
            detokenize=False,
        )
        began = time.perf_counter()
        (found,) = engine.generate({"prompt_token_ids": request["prompt"]}, asked, use_tqdm=False)
        seconds = time.perf_counter() - began
        return {
            "tokens": list(found.outputs[0].token_ids),
            "seconds": seconds,
            "first_seconds": None,
        }

    return {"version": f"vLLM {__version__}", "threads": options["threads"]}, answer


if __name__ == "__main__":
    serve(load)
