"""Errors in a batch: one member's own fault, a lack of memory, or the device itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from stet.core.errors import CapacityError, StetError, first_line

T = TypeVar("T")
R = TypeVar("R")

_EXHAUSTED = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
_LOST = (
    "CUDA error",
    "HIP error",
    "device-side assert",
    "EXECUTION_FAILED",
    "INTERNAL_ERROR: CUDA",
)


class DeviceError(StetError):
    """The device failed: nothing on it can be used any more."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the host or on a device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _EXHAUSTED)


def is_device_error(error: BaseException) -> bool:
    """Whether an error says that the device failed; running out of memory does not count."""
    if is_out_of_memory(error):
        return False
    if isinstance(error, (DeviceError, torch.AcceleratorError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST)


def device_error(error: Exception) -> DeviceError | None:
    """Convert what a failed device raised to a `DeviceError`; None for other errors."""
    if isinstance(error, DeviceError) or not is_device_error(error):
        return error if isinstance(error, DeviceError) else None
    first = first_line(error)
    found = DeviceError(
        f"The device failed ({first}); everything at work ended, and the pair has to be "
        "loaded anew, in a new process if that fails too."
    )
    found.__cause__ = error
    return found


def raise_device_error(error: Exception) -> None:
    """Raise a `DeviceError` for what a failed device raised; does nothing with other errors.

    Raises:
        DeviceError: the device failed.
    """
    found = device_error(error)
    if found is not None:
        raise found


def isolate(items: Sequence[T], run: Callable[[list[T]], Sequence[R]]) -> list[R | Exception]:
    """Run a batch; where it raises, divide it until only the member at fault fails.

    After running out of memory the batch is halved, since its size is at fault; after any other
    error its members are run one by one, since one of them is.

    Args:
        items: the members.
        run: returns one result for each of some members, in order; run again on parts of the batch.

    Returns:
        For each member its result, or the error.

    Raises:
        DeviceError: the device failed, so that nothing can be run again.
    """
    if not items:
        return []
    try:
        return list(run(list(items)))
    except Exception as error:
        raise_device_error(error)
        exhausted = is_out_of_memory(error)
        if len(items) == 1:
            return [_too_large(error) if exhausted else error]
    # Not inside the handler: the error's traceback holds the tensors of the pass that failed.
    if exhausted and torch.cuda.is_available():
        torch.cuda.empty_cache()
    size = -(-len(items) // 2) if exhausted else 1
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [result for part in parts for result in isolate(part, run)]


def _too_large(error: Exception) -> CapacityError:
    first = first_line(error)
    return CapacityError(
        f"Memory ran out for this request alone ({first}); load the pair with a smaller max_length "
        "or fewer max_rows, or ask for fewer candidates."
    )
