"""Stet's decoding loop inside transformers' `generate`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

from stet.core.draft_length import DraftLength
from stet.core.errors import OptionError, StetError
from stet.core.result import Result
from stet.integrations.borrowed import borrowed_pair
from stet.integrations.generation_settings import check_inputs, options_of
from stet.pair import LOOKUP
from stet.policies import Policy
from stet.requests.methods import method_of


def custom_generate(
    policy: str | Policy = "exact",
    *,
    assistant_model: PreTrainedModel | Literal["lookup"],
    draft_length: int | Literal["auto"] | DraftLength = "auto",
    policy_parameters: dict[str, Any] | None = None,
) -> CustomGenerate:
    """Make a decoding loop for `model.generate(..., custom_generate=...)`.

    The model that `generate` is called on is the target. Sampling settings, the length and the
    end-of-sequence tokens are taken from the call; settings that Stet does not support are refused.

    Args:
        policy: a policy or its name; "target" and "draft" decode with one model alone.
        assistant_model: the draft, a model with the same tokenizer; "lookup" to copy from the text
            so far.
        draft_length: tokens per block, "auto", or a rule from `stet.core.draft_length`.
        policy_parameters: parameters of a policy that is given by name.

    Returns:
        A callable for `custom_generate`; its `results` are those of the last call.

    Raises:
        OptionError: an unknown policy or parameter, or an assistant that is neither a model nor
            "lookup".
    """
    draft = None if isinstance(assistant_model, str) else assistant_model
    if draft is None and assistant_model != LOOKUP:
        raise OptionError(
            f'assistant_model is {assistant_model!r}; give a loaded model, or "{LOOKUP}".'
        )
    method_of(policy, policy_parameters, has_draft=draft is not None)  # errors before it is used
    return CustomGenerate(policy, draft, draft_length, policy_parameters or {})


class CustomGenerate:
    """The decoding loop of `custom_generate`: `generate` calls it in place of its own loop.

    Attributes:
        results: a `Result` per row of the last call, with counters and the origin of every token
            (and without text: the caller has the tokenizer).
    """

    def __init__(
        self,
        policy: str | Policy,
        draft: PreTrainedModel | None,
        draft_length: int | Literal["auto"] | DraftLength,
        policy_parameters: dict[str, Any],
    ) -> None:
        self.results: list[Result] = []
        self._policy = policy
        self._draft = draft
        self._draft_length = draft_length
        self._parameters = policy_parameters

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Any = (),
        stopping_criteria: Any = (),
        generation_config: GenerationConfig | None = None,
        **inputs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Answer as `generate` would, with the arguments that it passes to its decoding loops.

        Args:
            model: the target.
            input_ids: [B, T] prompts, padded on the left.
            logits_processor: the logits processors that `generate` prepared.
            stopping_criteria: the stopping criteria that `generate` prepared.
            generation_config: the generation config that `generate` prepared.
            **inputs: further inputs of the model.

        Returns:
            [B, T + N] prompts and answers, padded on the right; or an object with these
            `sequences` where `return_dict_in_generate` is set.

        Raises:
            OptionError: for any setting that Stet does not support.
            StetError: where decoding failed.
        """
        config = generation_config or GenerationConfig()
        mask = inputs.get("attention_mask")
        real = torch.ones_like(input_ids).bool() if mask is None else mask.bool()
        width = input_ids.shape[1]
        pads = (~real).sum(1).tolist()
        options = options_of(config, logits_processor, stopping_criteria, width=width, pads=pads)
        check_inputs(inputs, real)
        options["draft_length"] = self._draft_length
        if self._parameters:
            options["policy_parameters"] = self._parameters
        prompts = [row[pad:] for row, pad in zip(input_ids.tolist(), pads, strict=True)]
        length = width - min(pads) + options["max_new_tokens"]
        with borrowed_pair(model, self._draft, rows=len(prompts), length=length) as pair:
            self.results = pair.generate(prompts, self._policy, **options)
        for result in self.results:
            if result.error is not None:
                raise StetError(result.error)
        answers = [result.token_ids for result in self.results]
        sequences = _pad(input_ids, answers, _pad_token(config, options["stop_token_ids"]))
        if config.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(sequences=sequences)  # type: ignore[arg-type]
        return sequences


def _pad_token(config: GenerationConfig, ends: Any) -> int:
    pad = config.pad_token_id
    if pad is None:
        # As transformers does; without any end token, answers are equally long.
        return int(ends[0]) if ends else 0
    return int(pad)


def _pad(prompts: Tensor, answers: list[list[int]], pad: int) -> Tensor:
    longest = max(len(answer) for answer in answers)
    rows = [answer + [pad] * (longest - len(answer)) for answer in answers]
    written = torch.tensor(rows, dtype=prompts.dtype, device=prompts.device)
    return torch.cat([prompts, written.view(len(rows), longest)], dim=1)
