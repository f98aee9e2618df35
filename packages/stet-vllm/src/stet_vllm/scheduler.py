"""vLLM's schedulers, which also keep the record of each answer and count what was accepted.

vLLM counts a block's accepted tokens as what it emitted less one, since its own rules always add a
token. A policy that defers the bonus token emits a whole block and nothing more; the counts here
are those of the policies.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from stet.core.errors import StetError
from stet_vllm.desk import Choice
from stet_vllm.engine import desk_of
from stet_vllm.notes import FIELD, Answer, Note


class _Recording(Scheduler):
    """Keeps the record of each answer, and hands it out with the answer's last output."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        desk = desk_of(self.vllm_config)
        assert desk is not None
        self._desk = desk
        self._answers: dict[str, Answer] = {}
        self._notes: dict[str, Note] = {}

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Take in a step, as vLLM does, and what became of each request's block."""
        self._notes = notes = getattr(model_runner_output, FIELD, None) or {}
        counted = {
            request: (metrics, sum(metrics.histogram))
            for request in notes
            if request in self.requests
            and (metrics := self.requests[request].spec_decode_metrics) is not None
        }
        for request in scheduler_output.num_scheduled_tokens:
            if request not in self._answers and (choice := self._choice(request)) is not None:
                self._answers[request] = Answer(choice)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for request, (metrics, steps) in counted.items():
            if sum(metrics.histogram) > steps:
                _correct(metrics, notes[request])
        for batch in outputs.values():
            for output in batch.outputs:
                if output.request_id in self._answers:
                    self._record(output)
        # Those that ended are gone, cancelled ones among them.
        self._answers = {name: a for name, a in self._answers.items() if name in self.requests}
        return outputs

    def make_spec_decoding_stats(
        self,
        spec_decoding_stats: Any,
        num_draft_tokens: int,
        num_accepted_tokens: int,
        num_invalid_spec_tokens: Any,
        request_id: str,
    ) -> Any:
        """Count a block, as vLLM does, with the tokens that its policy accepted."""
        note = self._notes.get(request_id)
        accepted = num_accepted_tokens if note is None else min(note.accepted, num_draft_tokens)
        return super().make_spec_decoding_stats(
            spec_decoding_stats,
            num_draft_tokens,
            accepted,
            num_invalid_spec_tokens,
            request_id,
        )

    def _choice(self, request: str) -> Choice | None:
        known = self.requests.get(request)
        if known is None or known.sampling_params is None:
            return None
        try:
            return self._desk.choose(known.sampling_params.extra_args)
        except StetError:  # it was refused where it came in, unless it came in another way
            return self._desk.default

    def _record(self, output: Any) -> None:
        answer = self._answers[output.request_id]
        answer.add(output.new_token_ids, self._notes.get(output.request_id))
        if output.finish_reason is not None:
            given = output.kv_transfer_params or {}
            output.kv_transfer_params = {**given, FIELD: answer.record()}


class RecordingScheduler(_Recording):
    """The scheduler of an engine that waits for each step."""


class RecordingAsyncScheduler(_Recording, AsyncScheduler):
    """The scheduler of an engine that plans the next step while one runs."""


def _correct(metrics: Any, note: Note) -> None:
    """Count the last block of a request's metrics by what its policy accepted."""
    counted = max(len(note.reasons) - 1, 0)
    accepted = min(note.accepted, len(metrics.histogram) - 1)
    if counted == accepted or not metrics.histogram[counted]:
        return
    metrics.histogram[counted] -= 1
    metrics.histogram[accepted] += 1
    if metrics.per_step_accepted:
        metrics.per_step_accepted[-1] = accepted
