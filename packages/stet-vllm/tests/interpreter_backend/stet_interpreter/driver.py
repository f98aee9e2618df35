"""The driver of the backend: this machine's processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase


class Driver(DriverBase):
    """Runs nothing either."""

    @classmethod
    def is_active(cls) -> bool:
        """Always there."""
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        """Refuse to compile."""
        raise NotImplementedError

    def get_current_target(self) -> GPUTarget:
        """This machine."""
        return GPUTarget("cpu", 0, 1)

    def get_active_torch_device(self) -> torch.device:
        """This machine."""
        return torch.device("cpu")

    def get_current_device(self) -> int:
        """The only one."""
        return 0

    def get_benchmarker(self) -> Callable[..., Sequence[float]]:
        """Refuse to measure."""
        raise NotImplementedError
