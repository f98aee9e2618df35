"""Pairs whose rounds are timed: the bundled one, and random models of a more usual shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import stet
from stet.bundled import generate as problems
from stet.core.limits import Limits
from stet.core.operations import Program
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.engine.drafting import ModelDrafter
from stet.engine.engine import Engine
from stet.engine.request import Request
from stet.engine.runner import Runner
from stet.models import prepare_model
from stet.signals import SIGNALS

ROWS = 18


class Lines:
    """A decoder for random models: every twelfth token reads as a line break."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Tokens as text."""
        del skip_special_tokens
        return "".join("\n" if t % 12 == 0 else chr(0x4E00 + t % 20_000) for t in token_ids)


@dataclass
class Setting:
    """A pair with prompts for it."""

    name: str
    engine: Engine
    decoder: Any
    prompts: list[list[int]]
    limits: Limits

    @property
    def draft(self) -> Runner:
        """The draft's runner."""
        assert isinstance(self.engine.drafter, ModelDrafter)
        return self.engine.drafter.runner

    @property
    def target(self) -> Runner:
        """The target's runner."""
        return self.engine.runners["target"]

    def sequence(self, number: int, limits: Limits | None = None) -> TokenSequence:
        """A new sequence with one of the prompts."""
        prompt = self.prompts[number % len(self.prompts)]
        sampling = SamplingParams(seed=number)
        return TokenSequence(prompt, sampling, limits or self.limits, self.decoder)

    def run(self, program: Program, root: TokenSequence, rows: int = 1) -> None:
        """Run a program to its end."""
        request = Request(root, program, rows=rows)
        self.engine.submit(request)
        while self.engine.busy:
            self.engine.step()
        if request.error is not None:
            raise request.error


def bundled(compiled: bool) -> Setting:
    pair = stet.load_pair(
        dtype="float32", device="cpu", max_batch=8, max_rows=ROWS, compile=compiled
    )
    found = problems("stories", "validation", 400)
    prompts = [list(pair.tokenizer(p.prompt)["input_ids"]) for p in found]
    limits = Limits(max_new_tokens=160, stop_token_ids=pair.end_tokens)
    setting = Setting("bundled", pair.engine, pair.tokenizer, prompts, limits)
    warm_up(setting, compiled)
    return setting


def wide(compiled: bool) -> Setting:
    runners = []
    for role, layers in (("target", 4), ("draft", 2)):
        torch.manual_seed(layers)
        config = LlamaConfig(
            vocab_size=32_000,
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=layers,
            num_attention_heads=16,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            initializer_range=0.05,
        )
        model = LlamaForCausalLM(config).eval()
        loaded = prepare_model(model, name=f"wide-{role}", role=role, self_check=False)
        runners.append(
            Runner(loaded, max_rows=ROWS, max_length=512, compile=compiled and role == "draft")
        )
    engine = Engine(runners[0], ModelDrafter(runners[1]), max_batch=8)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(32_000, (96,), generator=generator).tolist() for _ in range(80)]
    setting = Setting("wide", engine, Lines(), prompts, Limits(max_new_tokens=32))
    warm_up(setting, compiled)
    return setting


def warm_up(setting: Setting, compiled: bool) -> None:
    if compiled:
        layers = max(s.capture.layers for s in SIGNALS.values() if s.capture is not None)
        for captured in (0, layers):
            if not setting.draft.warm_up([1, 2], capture=captured):
                raise SystemExit("The draft's passes could not be compiled; try --no-compile.")
