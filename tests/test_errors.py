"""What another library's error says, as part of a sentence."""

from __future__ import annotations

import pytest

from stet.core.errors import first_line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no such key.", "no such key"),
        ("\n first line.\nand more\n", "first line"),
        ("Token `\x00` out of\x1b[31m vocabulary", r"Token `\x00` out of\x1b[31m vocabulary"),
        ("a\u2028b", "a"),
        ("Größe: 中文 ▁", "Größe: 中文 ▁"),
        ("", "ValueError"),
        ("x" * 1000, "x" * 300 + " ..."),
        ("\x00" * 1000, r"\x00" * 75 + " ..."),
    ],
)
def test_a_line_that_can_be_printed(said: str, told: str) -> None:
    found = first_line(ValueError(said))
    assert found == told
    assert found.isprintable()
