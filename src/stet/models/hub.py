"""The Hugging Face hub: not waited for where it cannot be asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Any

PATIENCE = 5.0
"""Seconds that the hub has to answer in."""

_REMEMBERED = 60
"""Seconds that its answer, or its silence, is remembered for."""


@contextmanager
def without_waiting(folder: Path | None) -> Iterator[None]:
    """Take what was downloaded before, where the hub does not answer, inside the `with` block.

    Without a network every file of a model would be asked for several times, with pauses in
    between, before the copy on the disk is taken: minutes for one model.

    Args:
        folder: the folder of a model that is here, about which no hub is asked; None for one that
            the hub has.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if folder is None and not before:
        constants.HF_HUB_OFFLINE = not _answers(int(time.monotonic() / _REMEMBERED))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@lru_cache(maxsize=1)
def _answers(_: int) -> bool:
    """Whether the hub answers; asked once for each argument."""
    from huggingface_hub import constants, get_session

    answers: list[Any] = []

    def ask() -> None:
        with suppress(Exception):  # of whatever kind: there is no answer
            answers.append(get_session().head(constants.ENDPOINT, timeout=PATIENCE))

    # In a thread, since looking an address up can take longer than any limit of the request.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return bool(answers)
