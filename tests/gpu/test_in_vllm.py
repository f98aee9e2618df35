"""Decisions as they are made inside vLLM, on a GPU: those of the CPU, and nothing waits for it."""

from __future__ import annotations

import pytest
import torch

from scenes import ROWS, Scene, emitted
from stet.policies import resolve
from stet_vllm.notes import packed
from stet_vllm.verify import verify

pytestmark = pytest.mark.gpu
NAMES = ("exact", "block", "top-k", "typical", "cospec", "ensemble", "confident")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_decisions_are_those_of_the_cpu_and_wait_for_nothing(temperature):
    policies = [resolve(NAMES[row % len(NAMES)]) for row in range(ROWS)]
    here = Scene([temperature] * ROWS, seed=4)
    there = Scene([temperature] * ROWS, seed=4, device="cuda")
    drafted = there.drafted()
    verify(drafted, policies)  # what is made once, such as an arbiter's copy on the device
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rulings = verify(drafted, policies)
        table = packed(rulings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert emitted(rulings) == here.in_vllm(policies)
    assert table.device.type == "cuda"
