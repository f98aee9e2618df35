"""Stet's verification policies inside vLLM.

Installed beside vLLM it changes nothing until an engine is started with an entry "stet" in its
`additional_config`; see `stet_vllm.desk.Settings` for what the entry may say.
"""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """VLLM's entry point for plug-ins, which is called in each of its processes."""
    from stet_vllm.engine import attach

    attach()
