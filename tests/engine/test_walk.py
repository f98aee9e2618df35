"""The walk through the code that docs/design.md tells is the one that a round takes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

import stet
from stet import load_pair
from stet.engine.engine import Engine
from stet.kernels.attention import serves

ROOT = Path(stet.__file__).parent
DESIGN = Path(__file__).parents[2] / "docs/design.md"


def test_a_middle_round_enters_the_files_that_the_design_lists(monkeypatch):
    pair = load_pair()
    rounds: list[set[str]] = []
    step = Engine.step

    def watched(engine: Engine) -> None:
        entered: set[str] = set()

        def enter(frame: FrameType, event: str, argument: object) -> None:
            path = Path(frame.f_code.co_filename)
            if event == "call" and path.is_relative_to(ROOT):
                entered.add(path.relative_to(ROOT).as_posix())

        sys.setprofile(enter)
        try:
            step(engine)
        finally:
            sys.setprofile(None)
        rounds.append(entered)

    pair.generate("Tom has 5 pens. He buys 3 more.", policy="exact", max_new_tokens=2)  # costs
    monkeypatch.setattr(Engine, "step", watched)
    pair.generate(
        "Tom has 5 pens. He buys 3 more.", policy="exact", max_new_tokens=40, ignore_eos=True
    )
    # Neither the first, which reads the prompt, nor the last, which hands the answer over.
    middle = set().union(*rounds[1:-1])

    paragraph = re.search(r"^A round in the middle .*$", DESIGN.read_text("utf-8"), re.M)
    assert paragraph is not None
    listed = set(
        re.findall(
            r"`((?:core|decoder|engine|kernels|policies|programs)/\w+\.py)`", paragraph.group()
        )
    )
    assert len(listed) == 34
    kernels = {"kernels/attention.py", "kernels/norm.py"}
    assert middle == listed - ({"engine/masks.py"} if serves([]) else kernels)
