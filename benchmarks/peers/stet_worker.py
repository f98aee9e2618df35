"""Stet, measured like any peer: in a process of its own, over the same pipe."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

import stet_rounds
import torch

import stet
from serve import Answering, serve
from stet.requests.options import PINNED


def load(options: dict[str, Any]) -> tuple[dict[str, Any], Answering]:
    torch.set_num_threads(options.pop("threads"))
    compiled = options.pop("compile", False)
    pair = stet.load_pair(device="cpu", compile=compiled, **options)
    if compiled:
        pair.warm_up()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if "measure" in request:
            return stet_rounds.MEASURES[request["measure"]](pair, request)
        setting = dict(request["setting"])
        policy = setting.pop("policy")
        began = time.perf_counter()
        result = pair.generate(
            request["prompt"],
            policy,
            max_new_tokens=request["max_new_tokens"],
            **setting,
            **PINNED,
        )
        seconds = time.perf_counter() - began
        if result.error is not None:
            raise result.error
        counters = result.counters
        return {
            "tokens": result.token_ids,
            "seconds": seconds,
            "first_seconds": None,
            "drafted": counters.drafted_tokens,
            "accepted": counters.accepted_tokens,
            "target_passes": counters.target_passes,
            "target_seconds": counters.target_seconds,
            "draft_seconds": counters.draft_seconds,
        }

    return {
        "version": f"stet {version('stet-decoding')}",
        "threads": torch.get_num_threads(),
    }, answer


if __name__ == "__main__":
    serve(load)
