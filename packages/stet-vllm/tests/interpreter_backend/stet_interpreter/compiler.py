"""The compiler of the backend, which is never asked for anything."""

from __future__ import annotations

from typing import Any

from triton.backends.compiler import BaseBackend


class Compiler(BaseBackend):
    """Compiles nothing."""

    @staticmethod
    def supports_target(target: Any) -> bool:
        """Whether it is meant."""
        return bool(target.backend == "cpu")

    def hash(self) -> str:
        """A name for caches."""
        return "interpreted"

    def parse_options(self, options: dict[str, Any]) -> Any:
        """Refuse to compile."""
        raise NotImplementedError

    def add_stages(self, stages: Any, options: Any, language: Any = None) -> None:
        """Refuse to compile."""
        raise NotImplementedError

    def load_dialects(self, context: Any) -> None:
        """Refuse to compile."""
        raise NotImplementedError

    def get_module_map(self) -> dict[str, Any]:
        """No modules of its own."""
        return {}
