"""transformers as a peer: `generate`, assisted generation and prompt lookup."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from serve import Answering, serve


def model(path: str, dtype: str) -> Any:
    """A model of a folder, or of a GGUF file, which transformers dequantises."""
    kind = getattr(torch, dtype)
    if path.endswith(".gguf"):
        file = Path(path)
        return AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=kind
        ).eval()
    return AutoModelForCausalLM.from_pretrained(path, dtype=kind).eval()


class Clock(LogitsProcessor):
    """Looks at the time when the first token is chosen."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Change nothing."""
        del input_ids
        self.first = self.first or time.perf_counter()
        return scores


def load(options: dict[str, Any]) -> tuple[dict[str, Any], Answering]:
    torch.set_num_threads(options["threads"])
    target = model(options["target"], options["dtype"])
    draft = own = schedule = None
    if options["draft"] is not None:
        draft = model(options["draft"], options["dtype"])
        own = draft.generation_config
        schedule = (own.num_assistant_tokens, own.num_assistant_tokens_schedule)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        setting = request["setting"]
        more: dict[str, Any] = {}
        if setting["mode"] == "assisted":
            # Its own schedule changes the number on the model, so it is set anew for each answer.
            length = setting.get("length")
            own.num_assistant_tokens, own.num_assistant_tokens_schedule = (
                schedule if length is None else (length, "constant")
            )
            more["assistant_model"] = draft
        elif setting["mode"] == "lookup":
            more["prompt_lookup_num_tokens"] = setting["length"]
        began = time.perf_counter()
        prompt = torch.tensor(request.get("prompts") or [request["prompt"]])
        clock = Clock()
        if setting["mode"] == "target":
            more["logits_processor"] = LogitsProcessorList([clock])
        if setting.get("whole"):
            more["min_new_tokens"] = request["max_new_tokens"]
        with torch.inference_mode():
            out = target.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                repetition_penalty=1.0,
                max_new_tokens=request["max_new_tokens"],
                **more,
            )
        seconds = time.perf_counter() - began
        tokens = out[:, prompt.shape[1] :].tolist()
        first = None if clock.first is None else clock.first - began
        count = sum(map(len, tokens))
        return {"tokens": tokens[0], "count": count, "seconds": seconds, "first_seconds": first}

    about = {
        "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "threads": torch.get_num_threads(),
    }
    return about, answer


if __name__ == "__main__":
    serve(load)
