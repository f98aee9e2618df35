"""How much runners are fed, for tests of what text costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from stet.engine.runner import Runner


@dataclass
class Fed:
    """Tokens that the runners were fed, pads apart, and the stretches of drafting."""

    target: int = 0
    draft: int = 0
    drafts: int = 0


def count_fed(monkeypatch: pytest.MonkeyPatch) -> Fed:
    """Count from now on what every runner is fed."""
    found = Fed()
    forward = Runner.forward

    def counting(self: Runner, rows: Any, tokens: Any, starts: Any, counts: Any = None, **more):
        role = self.model.role
        count = tokens.numel() if counts is None else sum(counts)
        setattr(found, role, getattr(found, role) + count)
        found.drafts += role == "draft" and more.get("logits") == "last" and tokens.shape[1] > 1
        return forward(self, rows, tokens, starts, counts, **more)

    monkeypatch.setattr(Runner, "forward", counting)
    return found
