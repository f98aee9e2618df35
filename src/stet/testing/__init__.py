"""Checks for authors of policies: losslessness, the contract, and scripts in place of models.

Each check raises an `AssertionError` that says what is wrong, so it works in any test runner:

    from stet.testing import check_contract, check_lossless

    def test_my_rule():
        check_contract(MyRule())
        check_lossless(MyRule())  # only if it is declared lossless
"""

from stet.testing.contract import check_contract
from stet.testing.lossless import check_lossless
from stet.testing.mutants import MUTANTS, mutant
from stet.testing.statistics import chi_square, p_value, total_variation
from stet.testing.steps import Script, StepRun, run_steps
from stet.testing.worlds import KINDS, World, draft_blocks, make_world

__all__ = [
    "KINDS",
    "MUTANTS",
    "Script",
    "StepRun",
    "World",
    "check_contract",
    "check_lossless",
    "chi_square",
    "draft_blocks",
    "make_world",
    "mutant",
    "p_value",
    "run_steps",
    "total_variation",
]
