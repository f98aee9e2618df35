"""The texts that the reports on the terminal and as a page share."""

from __future__ import annotations

from dataclasses import replace

from stet.calibration.choosing import Wish
from stet.calibration.quality import Quality
from stet.calibration.result import Calibration
from stet.pages.words import MISSING, number
from stet.policies.specguard import TARGET_MARGIN
from stet.signals import SIGNALS


def asked(found: Calibration) -> str:
    """The request, in a sentence."""
    wish, label_source = found.wish, found.measure
    passes = "the most right answers"
    if label_source.note:
        passes = "the most answers that agree with the target"
    match wish.goal:
        case "accuracy":
            return f"The threshold with {passes}; among equals the fastest."
        case "speed":
            share = label_source.share.format(f"at least {wish.value:.1%}")
            return f"The fastest threshold that {share} of the problems."
        case "keep":
            return f"The strictest threshold that accepts at least {wish.value:.1%} of the steps."
        case "latency":
            return f"The threshold with {passes} within {wish.value:.3g} seconds of an answer."
        case "risk":
            return _bound(wish, found)


def _bound(wish: Wish, found: Calibration) -> str:
    return (
        f"The threshold that accepts most steps while, with probability {1 - wish.delta:.0%}, at "
        f"most {wish.value:.1%} of new problems {found.measure.risk}."
    )


def chosen(found: Calibration) -> str:
    """The chosen threshold and score, in words."""
    signals = ", ".join(f"{name} ({weight:.2f})" for name, weight in found.weights.items())
    text = f"Threshold {found.chosen.threshold:g} on a score of {signals}."
    if found.parameters.get("lower") is None:
        return text
    return (
        f"{text} Below it the target reads the step, which is accepted if every token has at least "
        f"{found.parameters['target_threshold']:g} times the probability of the target's best one."
    )


def overruled(found: Calibration) -> str:
    """What the comparison of both models' steps brings; empty where it was not asked for."""
    own = found.overruling
    if own is None:
        return ""
    text = (
        f"Where both models' steps were compared, {own.saving} steps of the draft led to the right "
        f"answer and the target's own did not, and {own.misleading} the reverse"
    )
    by_others = f"by margins fitted to other problems {own.saved} and {own.misled} of these"
    if own.margin is None:
        return (
            f"{text}; {by_others} would stand (p {number(own.p_value, '.2g')}), so no step stands "
            "in the place of the target's."
        )
    return (
        f"{text}; {by_others} would stand (p {number(own.p_value, '.2g')}). A rejected step stands "
        f"where both models together give its tokens at least {own.margin:g} nats more on average."
    )


def outlook(found: Calibration) -> str:
    """What steps of the draft can bring on this pair; empty where labels do not tell."""
    steps, saving = found.task["steps"], found.task.get("saving")
    target = found.references.get("target")
    if saving is None or found.measure.note or target is None:
        return ""
    misleading = found.task["misleading"]
    text = (
        f"Of {steps} labelled steps of the draft {share(saving / steps)} lead to the right answer "
        f"where the target's own do not, and {share(misleading / steps)} away from it where the "
        "target's own do not"
    )
    gain = found.chosen.accuracy - target.accuracy
    if gain <= 0 or not saving:
        return f"{text}: expect speed, not accuracy."
    return (
        f"{text}. On the problems that the threshold was chosen on it gave {100 * gain:.1f} points "
        "more right answers than the target; `stet compare` on other problems shows if that holds."
    )


def role(found: Calibration, quality: Quality) -> str:
    """The role of a signal: its weight, or why it has none."""
    if quality is found.score:
        return "the fitted score itself"
    if quality.name == TARGET_MARGIN:
        return "the target's own reading, below the threshold"
    if quality.name in found.wrong_way:
        return "left out: here it ranks steps the wrong way round"
    weight = found.weights.get(quality.name)
    if weight is None:
        return "left out: it adds nothing to the others"
    return f"weight {weight:.2f}"


def share(value: float | None) -> str:
    """A share, formatted as a percentage."""
    return MISSING if value is None else f"{number(100 * value, '.1f')}%"


def best_first(found: Calibration) -> list[Quality]:
    """The qualities of signals in the order of AUROC, the best first, then that of the score.

    The AUROC of a signal of which less is better, such as an entropy, is reversed, so that above
    0.5 always means that the signal ranks steps the right way.
    """
    shown = sorted(map(_orient, found.qualities), key=lambda q: (-q.auroc, q.name))
    return shown if found.score is None else [*shown, found.score]


def label(quality: Quality) -> str:
    """A signal's name, with "less" where less is better."""
    return f"less {quality.name}" if _less_is_better(quality) else quality.name


def _less_is_better(quality: Quality) -> bool:
    signal = SIGNALS.get(quality.name)
    return signal is not None and signal.sign < 0


def _orient(quality: Quality) -> Quality:
    if not _less_is_better(quality):
        return quality
    within = None if quality.within is None else 1 - quality.within
    low, high = 1 - quality.high, 1 - quality.low
    return replace(quality, auroc=1 - quality.auroc, low=low, high=high, within=within)
