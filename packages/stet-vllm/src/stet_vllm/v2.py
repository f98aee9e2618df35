"""Policies in vLLM's newer model runner ("V2"), which GPUs use.

Importing this module, which vLLM does where it is asked to, puts one class in the place of the
runner's rejection sampler and one in the place of what carries its results to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.worker.gpu import async_utils, model_runner
from vllm.v1.worker.gpu.async_utils import async_copy_to_np, stream
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcessor
from vllm.v1.worker.gpu.spec_decode import rejection_sampler

from stet.core.errors import StetError
from stet.core.tensors import move
from stet.policies import Exact
from stet_vllm.admission import check
from stet_vllm.desk import Choice, Desk
from stet_vllm.engine import desk_of
from stet_vllm.notes import FIELD, notes_of, packed
from stet_vllm.shaping import Shaping
from stet_vllm.verify import Drafted, Rulings, verify


class Requests(LogitsProcessor):
    """Learns each request's policy as it enters the batch, and changes no logits.

    It is a logits processor since that is what vLLM tells about requests.
    """

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        super().__init__(vllm_config, req_states)
        desk = desk_of(vllm_config)
        assert desk is not None
        self._desk: Desk = desk
        count = vllm_config.scheduler_config.max_num_seqs
        self.choices: list[Choice] = [desk.default] * count
        self.mismatches: Tensor | None = None  # [requests] int64, accepted ones, on the device
        self._new: list[int] = []

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request whose policy cannot be used.

        Raises:
            ValueError: with a sentence.
        """
        check(sampling_params)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take note of a request's policy; no logits are changed for it."""
        try:
            choice = self._desk.choose(sampling_params.extra_args)
        except StetError:  # it was refused where it came in, unless it came in another way
            choice = self._desk.default
        while len(self.choices) <= req_idx:
            self.choices.append(self._desk.default)
        self.choices[req_idx] = choice
        self._new.append(req_idx)
        return False

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Nothing: logits stay as they are."""
        del ctx
        return logits

    def counts(self, device: torch.device) -> Tensor:
        """Accepted mismatches of each request's answer so far, by its place, on the device."""
        if self.mismatches is None or len(self.mismatches) < len(self.choices):
            self.mismatches = torch.zeros(len(self.choices), dtype=torch.int64, device=device)
        if self._new:
            self.mismatches[move(torch.tensor(self._new), device)] = 0
            self._new.clear()
        return self.mismatches


@dataclass(slots=True)
class _Pending:
    """What became of some requests of a step, on the device."""

    table: Tensor
    choices: list[Choice]
    fallen: dict[int, str]


class RejectionSampler(rejection_sampler.RejectionSampler):
    """vLLM's rejection sampler, in which each request's policy decides."""

    _requests: Requests | None
    _pending: list[_Pending]

    def __init__(self, sampler: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sampler, *args, **kwargs)
        found = (p for p in sampler.logits_processors if isinstance(p, Requests))
        self._requests = next(found, None)  # None: this engine does not ask for Stet
        self._pending = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Verify a step's blocks; what became of them goes along with the result."""
        self._pending = []
        output = super().__call__(*args, **kwargs)
        setattr(output, FIELD, self._pending)
        return output

    def _verify(
        self,
        logits: Tensor,
        draft_logits: Tensor | None,
        draft_sampled: Tensor,
        pos: Tensor,
        cu_num_logits: Tensor,
        idx_mapping: Tensor,
        idx_mapping_np: Any,
        expanded_idx_mapping: Tensor,
        expanded_local_pos: Tensor,
        seq_lens_upper_bound_np: Any,
        verify_draft_sampled: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        given = (
            logits,
            draft_logits,
            draft_sampled,
            pos,
            cu_num_logits,
            idx_mapping,
            idx_mapping_np,
            expanded_idx_mapping,
            expanded_local_pos,
            seq_lens_upper_bound_np,
            verify_draft_sampled,
        )
        requests = self._requests
        if requests is None:
            return super()._verify(*given)
        choices = [requests.choices[place] for place in idx_mapping_np]
        places = _places(cu_num_logits, self.num_speculative_steps, logits.shape[0])
        drafted = _drafted_tokens(verify_draft_sampled, places, cu_num_logits)
        if all(_is_vllms(choice, logits.device) for choice in choices):
            # On an accelerator vLLM's kernels follow the same rule.
            found = super()._verify(*given)
            rulings = _standard(drafted, found[1], found[2])
            self._pending.append(_Pending(packed(rulings), choices, {}))
            return found
        sampler = self.sampler
        processed = edited = logits
        if np.any(sampler.needs_logits_processing[idx_mapping_np]):
            shaped = sampler.apply_sampling_params(
                logits,
                expanded_idx_mapping,
                idx_mapping,
                idx_mapping_np,
                pos,
                draft_sampled,
                expanded_local_pos,
                seq_lens_upper_bound_np,
                skip_top_k_top_p=True,
            )
            states = sampler.sampling_states
            heat = states.temperature.gpu[expanded_idx_mapping][:, None]
            edited = shaped * torch.where(heat > 0, heat, 1.0)
            processed = states.apply_top_k_top_p(shaped, expanded_idx_mapping, idx_mapping_np)
        blocks = self._blocks(
            logits, edited, drafted, places, pos, idx_mapping, idx_mapping_np, draft_logits
        )
        rulings = verify(blocks, [choice.policy for choice in choices])
        requests.counts(logits.device).index_add_(0, idx_mapping.long(), rulings.mismatches)
        self._pending.append(_Pending(packed(rulings), choices, rulings.fallen))
        return processed, rulings.tokens, rulings.emitted.to(torch.int32)

    def _blocks(
        self,
        logits: Tensor,
        edited: Tensor,
        drafted: Tensor,
        places: Tensor,
        pos: Tensor,
        idx_mapping: Tensor,
        idx_mapping_np: Any,
        draft_logits: Tensor | None,
    ) -> Drafted:
        requests = self._requests
        assert requests is not None
        states = self.sampler.sampling_states
        device, width = logits.device, drafted.shape[1]
        # Policies compute in float32, whatever the head's dtype.
        raw = logits[places].float()
        slots = idx_mapping.long()
        rounds = pos[places[:, 0]].long()
        temperature = states.temperature.np[idx_mapping_np]

        def cut(rows: Tensor, owners: Tensor) -> Tensor:
            return apply_top_k_top_p(rows, states.top_k.gpu[owners], states.top_p.gpu[owners])

        def history() -> Tensor:
            prompts = self.sampler.req_states.prompt_len.np[idx_mapping_np]
            before = rounds + 1 - move(torch.from_numpy(prompts.astype(np.int64)), device)
            return torch.stack([before, requests.counts(device)[slots]], 1)

        def draft_rows(rows: Tensor | None) -> Tensor:
            assert draft_logits is not None
            chosen = slots if rows is None else slots[rows]
            return draft_logits[chosen, :width].float()

        top_k, top_p = states.get_top_k_top_p(slots, idx_mapping_np)
        shaping = Shaping(
            raw=raw,
            edited=raw if edited is logits else edited[places].float(),
            temperature=states.temperature.gpu[slots],
            greedy=tuple(bool(value == 0) for value in temperature),
            requests=slots,
            cut=None if top_k is None and top_p is None else cut,
        )
        return Drafted(
            tokens=drafted,
            shaping=shaping,
            draft_logits=None if draft_logits is None else draft_rows,
            seeds=states.seeds.gpu[slots],
            rounds=rounds,
            history=history,
        )


class AsyncOutput(async_utils.AsyncOutput):
    """A step's result on its way to the host, with what became of each request's block."""

    _tables: list[Any]
    _steps: list[_Pending]

    def __init__(
        self,
        model_runner_output: Any,
        sampler_output: Any,
        num_sampled_tokens: Tensor,
        main_stream: Any,
        copy_stream: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model_runner_output=model_runner_output,
            sampler_output=sampler_output,
            num_sampled_tokens=num_sampled_tokens,
            main_stream=main_stream,
            copy_stream=copy_stream,
            **kwargs,
        )
        self._steps = getattr(sampler_output, FIELD, [])
        self._tables = []
        if self._steps:
            with stream(copy_stream, main_stream):
                self._tables = [async_copy_to_np(step.table) for step in self._steps]
                self.copy_event.record(copy_stream)

    def get_output(self) -> Any:
        """Wait for the result, and attach the notes."""
        output = super().get_output()
        notes: dict[str, Any] = {}
        first = 0
        for step, table in zip(self._steps, self._tables, strict=True):
            names: Sequence[str] = output.req_ids[first : first + len(step.choices)]
            notes |= notes_of(table.tolist(), names, step.choices, step.fallen)
            first += len(step.choices)
        if notes:
            setattr(output, FIELD, notes)
        return output


class Extension:
    """Mixed into vLLM's worker, which imports this module before it makes its model runner."""


def _places(cu_num_logits: Tensor, most: int, total: int) -> Tensor:
    """Where each request's logits lie, [B, K + 1]; beyond its own, its last ones again."""
    starts, ends = cu_num_logits[:-1].long(), cu_num_logits[1:].long()
    steps = torch.arange(most + 1, device=starts.device)
    return torch.minimum(starts[:, None] + steps, ends[:, None] - 1).clamp(max=total - 1)


def _drafted_tokens(flat: Tensor, places: Tensor, cu_num_logits: Tensor) -> Tensor:
    """The drafted tokens [B, K] int64, and `EMPTY` where there are none."""
    counts = (cu_num_logits[1:] - cu_num_logits[:-1]).long()
    steps = torch.arange(1, places.shape[1], device=places.device)
    tokens = flat[places[:, 1:]].long()
    return torch.where(steps < counts[:, None], tokens, -1)


def _is_vllms(choice: Choice, device: torch.device) -> bool:
    """Whether vLLM's own kernels decide as the policy does; on a CPU they are not to be trusted."""
    return device.type != "cpu" and type(choice.policy) is Exact


def _standard(drafted: Tensor, sampled: Tensor, num_sampled: Tensor) -> Rulings:
    """What vLLM's own rule decided: all that it emits but the last token was drafted."""
    emitted = num_sampled.long()
    accepted = (emitted - 1).clamp(min=0)
    lengths = (drafted >= 0).long().cumprod(1).sum(1)
    steps = torch.arange(sampled.shape[1], device=sampled.device)
    last = torch.where(accepted == lengths, 2, 1)[:, None]
    codes = torch.where(steps < accepted[:, None], 0, last).to(torch.int8)
    return Rulings(sampled, emitted, lengths, accepted, codes, torch.zeros_like(accepted))


# The runner makes its sampler and its results by these names.
model_runner.RejectionSampler = RejectionSampler
model_runner.AsyncOutput = AsyncOutput
