"""Mends of Triton's interpreter, so that it runs vLLM's kernels."""

from __future__ import annotations

from typing import Any

import numpy as np


def mend() -> None:
    """Take masks that are no booleans, and know a function that only devices have."""
    import triton.language as tl
    from triton.language.extra import libdevice
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def plain(mask: Any) -> Any:
        return TensorHandle(mask.data.astype(np.bool_), tl.int1)

    def masked_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        return load(self, ptrs, plain(mask), *rest)

    def masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return store(self, ptrs, value, plain(mask), *rest)

    InterpreterBuilder.create_masked_load = masked_load
    InterpreterBuilder.create_masked_store = masked_store
    libdevice.log1p = lambda x: tl.log(1.0 + x)
