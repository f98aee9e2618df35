"""Policies in vLLM's older model runner ("V1"), which CPUs use.

Importing this module, which vLLM does where it is asked to, puts one class in the place of the
runner's rejection sampler and one in the place of its draft.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.spec_decode import draft_model
from vllm.v1.worker import gpu_model_runner

from stet.core.errors import StetError
from stet.policies import Exact
from stet_vllm.desk import Choice, Desk
from stet_vllm.engine import desk_of
from stet_vllm.notes import FIELD, Note, notes_of, packed
from stet_vllm.shaping import Shaping
from stet_vllm.verify import Drafted, verify


class DraftModelProposer(draft_model.DraftModelProposer):
    """vLLM's draft model, whose raw logits are kept in the place of its probabilities."""

    def __init__(self, vllm_config: Any, device: torch.device, runner: Any = None) -> None:
        super().__init__(vllm_config, device, runner)
        self._stet_desk = desk_of(vllm_config)  # None: this engine does not ask for Stet
        self._stet_runner = runner

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the draft; the runner is complete by now, and is bound."""
        super().load_model(*args, **kwargs)
        if self._stet_desk is not None:
            _bind(self._stet_runner, self._stet_desk)

    def _sample_draft_tokens(
        self, hidden_states: Tensor, sampling_metadata: Any
    ) -> tuple[Tensor, Tensor | None]:
        if self._stet_desk is None:
            return super()._sample_draft_tokens(hidden_states, sampling_metadata)
        logits = self.model.compute_logits(hidden_states).float()
        if sampling_metadata.all_greedy:
            return logits.argmax(-1), logits
        # What is drawn from is made in place.
        tokens, _ = self._sample_from_logits(logits.clone(), sampling_metadata)
        return tokens, logits


class RejectionSampler(rejection_sampler.RejectionSampler):
    """vLLM's rejection sampler, in which each request's policy decides."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stet: _Runner | None = None

    def forward(
        self,
        metadata: Any,
        draft_probs: Tensor | None,
        logits: Tensor,
        sampling_metadata: Any,
    ) -> SamplerOutput:
        """Decide about a step's blocks; `draft_probs` are the draft's raw logits."""
        stet = self._stet
        # A warm-up has no requests.
        if stet is None or not stet.knows(len(metadata.num_draft_tokens)):
            return super().forward(metadata, None, logits, sampling_metadata)
        raw = logits.float()
        edited = self._edited(raw, metadata, sampling_metadata, stet)
        places, drafted = _layout(metadata)
        choices = stet.choices()
        policies = [choice.policy for choice in choices]
        if draft_probs is None:
            # Near the context's end vLLM drafts without asking the draft.
            policies = [_EXACT] * len(policies)
            choices = [Choice(_EXACT.name, _EXACT)] * len(choices)
        rows = len(choices)
        padded = raw[places]

        def cut(flat: Tensor, owners: Tensor) -> Tensor:
            k, p = sampling_metadata.top_k, sampling_metadata.top_p
            return apply_top_k_top_p(
                flat, None if k is None else k[owners], None if p is None else p[owners]
            )

        cuts = sampling_metadata.top_k is not None or sampling_metadata.top_p is not None
        heat = sampling_metadata.temperature
        temperature = torch.zeros(rows) if heat is None else heat[:rows].float()
        shaping = Shaping(
            raw=padded,
            edited=padded if edited is raw else edited[places],
            temperature=temperature,
            greedy=tuple((temperature == 0).tolist()),
            requests=torch.arange(rows),
            cut=cut if cuts else None,
        )
        computed = stet.computed(rows)
        rulings = verify(
            Drafted(
                tokens=drafted,
                shaping=shaping,
                draft_logits=None if draft_probs is None else _spread(draft_probs, metadata),
                seeds=stet.seeds(),
                rounds=computed,
                history=lambda: stet.history(computed),
            ),
            policies,
        )
        stet.take(notes_of(packed(rulings).tolist(), stet.names, choices, rulings.fallen), rulings)
        sampled = rulings.tokens.to(torch.int32)
        return SamplerOutput(
            sampled_token_ids=sampled,
            logprobs_tensors=self._logprobs(raw, edited, metadata, sampling_metadata, sampled),
        )

    def _edited(self, raw: Tensor, metadata: Any, sampling: Any, stet: _Runner) -> Tensor:
        """The target's logits after penalties and the like; `raw` itself where there are none."""
        holder = sampling.thinking_budget_state_holder
        if (
            sampling.no_penalties
            and not sampling.bad_words_token_ids
            and sampling.allowed_token_ids_mask is None
            and not stet.has_least_lengths()
            and (holder is None or not holder.has_tracked_requests())
        ):
            return raw
        edited = raw.clone()
        inside, after = metadata.target_logits_indices, metadata.bonus_logits_indices
        edited[inside] = self.apply_logits_processors(raw[inside], sampling, metadata)
        edited[after] = self.sampler.apply_logits_processors(raw[after], sampling, True)
        return edited

    def _logprobs(
        self, raw: Tensor, edited: Tensor, metadata: Any, sampling: Any, sampled: Tensor
    ) -> Any:
        if sampling.max_num_logprobs is None:
            return None
        shown = edited if self.is_processed_logprobs_mode else raw
        return self._get_logprobs_tensors(
            sampling.max_num_logprobs,
            metadata,
            raw,
            shown[metadata.target_logits_indices],
            shown[metadata.bonus_logits_indices],
            sampled,
        )


_EXACT = Exact()


class _Runner:
    """What is asked of vLLM's model runner about the requests of its batch.

    Args:
        runner: the model runner.
        desk: the policies.
    """

    def __init__(self, runner: Any, desk: Desk) -> None:
        self._runner = runner
        self._desk = desk
        self._mismatches: dict[str, int] = {}
        self.notes: dict[str, Note] = {}

    @property
    def names(self) -> list[str]:
        """The ids of the requests of the batch, in order."""
        names: list[str] = self._runner.input_batch.req_ids
        return names

    def knows(self, rows: int) -> bool:
        """Whether the batch is one of so many requests."""
        names = self._runner.input_batch.req_ids
        return len(names) == rows and all(name in self._runner.requests for name in names)

    def choices(self) -> list[Choice]:
        """The policy of each request."""
        return [self._choice(name) for name in self.names]

    def computed(self, rows: int) -> Tensor:
        """[B] int64, the tokens of each request that were in the cache before this step."""
        counts = self._runner.input_batch.num_computed_tokens_cpu[:rows]
        return torch.as_tensor(counts, dtype=torch.int64).clone()

    def seeds(self) -> Tensor:
        """[B] int64, each request's seed; without one of its own, one that depends on its id."""
        return torch.tensor([self._seed(name) for name in self.names], dtype=torch.int64)

    def history(self, computed: Tensor) -> Tensor:
        """[B, 2] int64, as `Drafted.history`."""
        prompts = [self._runner.requests[name].num_prompt_tokens for name in self.names]
        counts = [self._mismatches.get(name, 0) for name in self.names]
        return torch.stack([computed + 1 - torch.tensor(prompts), torch.tensor(counts)], 1)

    def has_least_lengths(self) -> bool:
        """Whether some request asks for a least number of tokens."""
        return any(self._parameters(name).min_tokens for name in self.names)

    def take(self, notes: dict[str, Note], rulings: Any) -> None:
        """Take note of what became of a step's blocks."""
        self.notes = notes
        counts = rulings.mismatches.tolist()
        for name, count in zip(self.names, counts, strict=True):
            self._mismatches[name] = self._mismatches.get(name, 0) + count
        known = self._runner.requests
        self._mismatches = {n: c for n, c in self._mismatches.items() if n in known}

    def _choice(self, name: str) -> Choice:
        try:
            return self._desk.choose(self._parameters(name).extra_args)
        except StetError:  # it was refused where it came in, unless it came in another way
            return self._desk.default

    def _seed(self, name: str) -> int:
        seed = self._parameters(name).seed
        if seed is not None:
            return int(seed)
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True)

    def _parameters(self, name: str) -> Any:
        return self._runner.requests[name].sampling_params


def _bind(runner: Any, desk: Desk) -> None:
    """Tell the rejection sampler of a runner about its batch, and hand out notes with results."""
    stet = _Runner(runner, desk)
    runner.rejection_sampler._stet = stet
    original = runner.sample_tokens

    def sample_tokens(grammar_output: Any) -> Any:
        stet.notes = {}
        output = original(grammar_output)
        if stet.notes:
            setattr(output, FIELD, stet.notes)
        return output

    runner.sample_tokens = sample_tokens


class Extension:
    """Mixed into vLLM's worker, which imports this module before it makes its model runner."""


def _layout(metadata: Any) -> tuple[Tensor, Tensor]:
    """Where each request's logits lie, [B, K + 1], and its drafted tokens, [B, K] int64."""
    counts = metadata.num_draft_tokens
    width = max(counts)
    places = torch.zeros(len(counts), width + 1, dtype=torch.int64)
    tokens = torch.full((len(counts), width), -1, dtype=torch.int64)
    flat = metadata.draft_token_ids.long()
    first = start = 0
    for row, count in enumerate(counts):
        places[row] = torch.arange(width + 1).clamp(max=count) + start
        tokens[row, :count] = flat[first : first + count]
        first += count
        start += count + 1
    return places, tokens


def _spread(flat: Tensor, metadata: Any) -> Any:
    """Gives the draft's logits [B, K, V] of all requests, or of some, from those of all tokens."""
    counts = metadata.num_draft_tokens
    places = torch.zeros(len(counts), max(counts), dtype=torch.int64)
    first = 0
    for row, count in enumerate(counts):
        places[row] = (torch.arange(max(counts)) + first).clamp(max=max(first + count - 1, 0))
        first += count
    return lambda rows: flat[places if rows is None else places[rows]]


# The runner makes its sampler and its draft by these names.
gpu_model_runner.RejectionSampler = RejectionSampler
gpu_model_runner.DraftModelProposer = DraftModelProposer
