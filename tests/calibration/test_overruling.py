"""From labelled steps that both models wrote to the margin from which on the draft's stands."""

import random
from dataclasses import replace

import pytest
from rich.console import Console

from calibration.report_example import example
from stet.calibration.calibrate import calibrate
from stet.calibration.choosing import Wish
from stet.calibration.overruling import Overruling, fit_overruling
from stet.calibration.report import page, terminal
from stet.calibration.report.words import overruled
from stet.calibration.request import CalibrateRequest
from stet.calibration.samples import StepSample, read
from stet.evaluation.tasks import load_task
from stet.load import load_pair
from stet.policies import SpecGuard
from stet.policies.specguard import PREFERENCE


def step(problem, preference, *, saves, good=None):
    good = saves if good is None else good
    signals = {} if preference is None else {PREFERENCE: preference}
    return StepSample(str(problem), 0, 10, signals, good, kept=False, saves=saves)


def made(count=300, *, knows=1.0, share=0.4, seed=0):
    """Decisive steps; `knows` nats lie between saving and misleading ones."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        saves = draw.random() < share
        found.append(step(i // 2, draw.gauss(knows if saves else 0.0, 0.5), saves=saves))
    return found


def test_the_margin_lies_where_saving_and_misleading_are_equally_likely():
    found = fit_overruling(made(2000, share=0.5))
    # Two normal distributions of one spread and equal numbers meet in the middle.
    assert found.margin == pytest.approx(0.5, abs=0.1)
    assert found.p_value < 1e-6
    assert found.saved > 4 * found.misled
    assert found.saving + found.misleading == 2000
    assert found.auroc == pytest.approx(0.92, abs=0.02)
    scarce = fit_overruling(made(2000, share=0.1))
    assert scarce.margin is not None
    assert scarce.margin > found.margin + 0.2


@pytest.mark.parametrize(
    "steps",
    [
        made(knows=0.0, share=0.3),  # nothing is known
        made(knows=-1.0, share=0.3),  # what is preferred misleads
        made(12, knows=2.0),  # too few to tell
        [step(i, 1.0, saves=False) for i in range(50)],
        [],
    ],
)
def test_nothing_stands_where_it_is_not_shown_to_help(steps):
    found = fit_overruling(steps)
    assert found.margin is None
    assert found.p_value > 0.05


def test_steps_that_decide_nothing_count_for_nothing():
    decisive = made()
    both_right = [step(i, 9.0, saves=False, good=True) for i in range(500)]
    not_compared = [step(i, None, saves=False) for i in range(500)]
    assert fit_overruling([*decisive, *both_right, *not_compared]) == fit_overruling(decisive)


def test_where_every_step_saves_all_that_were_seen_stand():
    found = fit_overruling([step(i, float(i), saves=True) for i in range(30)])
    assert found.margin == 0.0
    assert (found.misled, found.auroc) == (0, None)
    assert found.saved > 20


def test_steps_of_one_problem_are_one_piece_of_evidence():
    many = [step(i % 3, 1.0, saves=True) for i in range(60)]
    many += [step(3, -1.0, saves=False) for _ in range(20)]
    assert fit_overruling(many).margin is None


@pytest.fixture(scope="module")
def pair():
    return load_pair(compile=False, dtype="float32", max_batch=24)


def test_a_calibration_compares_rejected_steps_and_says_what_it_found(pair, tmp_path):
    task = load_task("stories", split="validation", count=40)
    base = SpecGuard.overruling(delimiter="\n", overrule=-1000.0)
    request = CalibrateRequest(task, Wish("accuracy"), base, thresholds=2, batch=24)
    found = calibrate(pair, request, tmp_path, lambda *_: None)
    steps = [s for p in read(tmp_path / "steps.jsonl") for s in p.steps]
    compared = [s for s in steps if PREFERENCE in s.signals]
    assert 0 < len(compared) < len(steps)  # equal steps are not compared
    assert found.overruling == fit_overruling([s for s in steps if s.good is not None])
    # The bundled draft knows nothing that its target does not: its steps would do harm.
    assert found.parameters["overrule"] is None
    assert found.overruling.misleading > found.overruling.saving
    assert "no step stands" in overruled(found)


@pytest.mark.parametrize(
    ("margin", "said"), [(0.25, "at least 0.25 nats more"), (None, "so no step stands")]
)
def test_the_reports_say_what_was_found(margin, said):
    found = replace(example(), overruling=Overruling(margin, 20, 41, 0.9, 15, 3, 0.004))
    console = Console(width=200, record=True)
    console.print(terminal(found))
    for text in (console.export_text(), page(found)):
        assert said in text
        assert "20 steps of the draft" in text


def test_a_policy_that_does_not_compare_says_nothing_of_it():
    assert example().overruling is None
    assert overruled(example()) == ""
