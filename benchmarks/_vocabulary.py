"""Work over a vocabulary of today beside the models: counted, sized and timed.

A small body under a head of 151,936 tokens drafts blocks and rules on them, so that what is left is
the head and what the rules, the sampling and the signals do with its logits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from stet.core.draft_length import FixedLength
from stet.core.limits import Limits
from stet.core.operations import Draft, Score
from stet.core.row import Row
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.engine.drafting import ModelDrafter
from stet.engine.runner import Runner
from stet.engine.scoring import score
from stet.models import prepare_model
from stet.policies import resolve

VOCAB = 151_936
"""Tokens of Qwen2.5's vocabulary."""

LENGTH = 5
"""Drafted tokens of a block."""

SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "penalty": {"repetition_penalty": 1.1},
    "sampled": {"temperature": 0.8},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "top_k": {"temperature": 0.8, "top_k": 40},
}
"""Ways to choose tokens, by name."""

_PRODUCTS = {"mm", "addmm", "bmm", "linear", "matmul"}
_PICKING = {"gather", "index_select", "index", "scatter", "scatter_", "index_put_", "embedding"}


class Rows(TorchDispatchMode):
    """Counts the rows of a vocabulary that operations go over, the head's own product excepted.

    An operation over [B, K, V] goes over B * K rows, whichever of its arguments or results is that
    large; views, bare allocations, and reading or writing a few places of a row go over none.

    Attributes:
        rows: by the name of the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _PRODUCTS or name.startswith(("empty", "new_empty")):
            return result
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        held = {x.untyped_storage().data_ptr() for x in given}
        new = [x for x in made if x.untyped_storage().data_ptr() not in held]
        if name in _PICKING:
            seen = [*given[1:], *new]
        else:
            seen = [*given, *made] if new or func._schema.is_mutable else []
        rows = max((x.numel() for x in seen), default=0) // VOCAB
        if rows:
            self.rows[name] += rows
        return result


@dataclass(frozen=True)
class Cost:
    """The cost of one kind of request beside its products of matrices.

    Attributes:
        draft_rows: rows of the vocabulary gone over, a drafted token.
        score_rows: rows of the vocabulary gone over, a position that the target scores.
        draft_bytes: bytes allocated in pieces of a row or more, a drafted token.
        score_bytes: bytes allocated in pieces of a row or more, a scored position.
        operations: rows by operation, of a whole round.
    """

    draft_rows: float
    score_rows: float
    draft_bytes: float
    score_bytes: float
    operations: dict[str, int]


class Setting:
    """Two small models with a large vocabulary, and the halves of a round over them."""

    def __init__(self) -> None:
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )

        def runner(seed: int) -> Runner:
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config).to(torch.bfloat16)
            with torch.no_grad():  # as unsure as a model is: some hundreds of tokens are likely
                model.model.norm.weight.mul_(30)
            return Runner(prepare_model(model, self_check=False), max_rows=1, max_length=256)

        # They agree on nothing: of every rule this is the dearest case.
        self.target, self.draft = runner(0), runner(1)
        self.drafter = ModelDrafter(self.draft)
        self._rows: dict[str, Row] = {}

    def round(self, policy: str, sampling: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        """Draft a block of a fresh sequence, and verify it."""
        rule: Any = resolve(policy)
        limits = Limits(draft_length=FixedLength(LENGTH))
        tokens = list(range(5, 45))
        sequence = TokenSequence(tokens, SamplingParams(**SAMPLINGS[sampling], seed=1), limits)
        for role, runner in (("draft", self.draft), ("target", self.target)):
            if role in self._rows:
                runner.release(self._rows[role])
            row = sequence.rows[role] = self._rows[role] = runner.allocate()  # type: ignore[index]
            runner.forward([row], torch.tensor([tokens[:-1]]), [0], logits="none")

        def draft() -> Any:
            sequence.rows["draft"].valid = len(tokens) - 1
            return self.drafter.run([Draft(sequence, LENGTH, needs=rule.needs)])

        def verify(blocks: Any) -> Any:
            sequence.rows["target"].valid = len(tokens) - 1
            (outcome,) = score(self.target, [Score(sequence, blocks[0], rule)])
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return draft, verify

    @torch.inference_mode()
    def cost(self, policy: str, sampling: str) -> Cost:
        """Count what a round costs."""
        draft, verify = self.round(policy, sampling)
        with Rows() as drafting:
            blocks = draft()
        with Rows() as scoring:
            verify(blocks)
        made: list[Any] = []
        sizes = [allocated(lambda: made.append(draft())), allocated(lambda: verify(made[0]))]
        return Cost(
            draft_rows=drafting.rows.total() / LENGTH,
            score_rows=scoring.rows.total() / (LENGTH + 1),
            draft_bytes=sizes[0] / LENGTH,
            score_bytes=sizes[1] / (LENGTH + 1),
            operations=dict(drafting.rows + scoring.rows),
        )

    @torch.inference_mode()
    def seconds(self, policy: str, sampling: str, repeats: int) -> tuple[float, float]:
        """Time a drafted token and a scored position, beside the models' passes: medians."""
        draft, verify = self.round(policy, sampling)
        inside = [0.0]

        def with_clock(forward: Callable[..., Any]) -> Callable[..., Any]:
            def timed(*arguments: Any, **more: Any) -> Any:
                began = time.perf_counter()
                result = forward(*arguments, **more)
                inside[0] += time.perf_counter() - began
                return result

            return timed

        runners: list[Any] = [self.draft, self.target]
        for runner in runners:
            runner.forward = with_clock(runner.forward)
        drafting: list[float] = []
        scoring: list[float] = []
        try:
            for _ in range(repeats + 1):
                inside[0], began = 0.0, time.perf_counter()
                blocks = draft()
                drafting.append((time.perf_counter() - began - inside[0]) / LENGTH)
                inside[0], began = 0.0, time.perf_counter()
                verify(blocks)
                scoring.append((time.perf_counter() - began - inside[0]) / (LENGTH + 1))
        finally:
            for runner in runners:
                del runner.forward
        return median(drafting[1:]), median(scoring[1:])


def allocated(work: Callable[[], Any]) -> int:
    """Bytes that the work allocates in pieces of at least a row of the vocabulary."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    results: Any = seen.profiler
    sizes = [e.nbytes() for e in results.kineto_results.events() if e.name() == "[memory]"]
    return sum(size for size in sizes if size >= 2 * VOCAB)
