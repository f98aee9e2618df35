"""What tests of programs share."""

import pytest

from feeding import Fed, count_fed


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> Fed:
    """Counts what the runners are fed during a test."""
    return count_fed(monkeypatch)
