"""Refusing a request whose policy cannot be used, before it reaches the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stet.core.errors import StetError
from stet_vllm.desk import Desk
from stet_vllm.hooks import wrap

_desks: list[Desk] = []
"""The policies of the engine that this process speaks for; the last that was set up."""


def admit(desk: Desk, *, newer: bool) -> None:
    """Have requests of this process checked by a desk.

    Args:
        desk: the policies.
        newer: whether the newer model runner is used, which asks `stet_vllm.v2.Requests` itself.
    """
    _desks[:] = [desk]
    if not newer:
        _ask_older()


def check(sampling_params: Any) -> None:
    """Refuse a request whose policy cannot be used.

    Raises:
        ValueError: with a sentence, as vLLM expects of what checks requests.
    """
    for desk in _desks:
        try:
            desk.choose(sampling_params.extra_args)
        except StetError as error:
            raise ValueError(str(error)) from error


def _ask_older() -> None:
    """Have the front end of the older runner ask, which allows no processors beside speculation."""
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    def with_check(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def build(self: Any) -> Callable[[Any], None]:
            validate = original(self)

            def both(sampling_params: Any) -> None:
                validate(sampling_params)
                try:
                    check(sampling_params)
                except ValueError as error:
                    raise VLLMValidationError(str(error)) from error

            return both

        return build

    wrap(InputProcessor, "_build_logits_processors_params_validator", with_check)
