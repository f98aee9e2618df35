"""A question router: by its words alone, a question goes as a whole to one of both models.

What a mixture of two models can win by choosing between whole answers, a router could have won for
less. So it stands beside every policy that decides within an answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

FEWEST = 5
"""Questions in which a word occurs, at least, for the router to know it."""

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Of the penalty on squared weights; the best is chosen by cross-validation."""

FOLDS = 5


def words_of(question: str) -> set[str]:
    """The words of a question; numbers by their length, and how many sentences there are."""
    found = re.findall(r"[^\W\d_]+|\d+", question.lower())
    words = {f"<{len(word)} digits>" if word.isdigit() else word for word in found}
    return words | {f"<{question.count('.')} sentences>"}


@dataclass(frozen=True)
class Router:
    """Logistic regression on the presence of words.

    Attributes:
        words: the place of each known word.
        weights: of the words, and of a constant, [W + 1].
        strength: of the penalty that was chosen.
        questions: that it was fitted to.
    """

    words: dict[str, int]
    weights: np.ndarray
    strength: float
    questions: int

    def chooses_draft(self, questions: Sequence[str]) -> list[bool]:
        """For each question, whether the draft is the likelier one to answer it right."""
        found: list[bool] = (_table(questions, self.words) @ self.weights > 0).tolist()
        return found


def fit(questions: Sequence[str], target: Sequence[bool], draft: Sequence[bool]) -> Router:
    """Fit a router to the questions that one model alone answers right.

    Args:
        questions: as they are asked.
        target: whether the target answers each right.
        draft: whether the draft does.
    """
    answers = zip(questions, target, draft, strict=True)
    telling = [(question, d) for question, t, d in answers if t != d]
    asked = [question for question, _ in telling]
    label = np.array([d for _, d in telling], float)
    counted = Counter(word for question in asked for word in words_of(question))
    known = sorted(word for word, count in counted.items() if count >= FEWEST)
    words = {word: place for place, word in enumerate(known)}
    table = _table(asked, words)
    fold = np.arange(len(label)) % FOLDS

    def loss(strength: float) -> float:
        total = 0.0
        for held in range(FOLDS):
            own = fold != held
            weights = _solve(table[own], label[own], strength)
            total += _loss(weights, table[~own], label[~own])[0]
        return total

    best = min(STRENGTHS, key=loss)
    return Router(words, _solve(table, label, best), best, len(label))


def _table(questions: Sequence[str], words: dict[str, int]) -> np.ndarray:
    table = np.zeros((len(questions), len(words) + 1))
    table[:, -1] = 1.0
    for row, question in enumerate(questions):
        for word in words_of(question):
            if (place := words.get(word)) is not None:
                table[row, place] = 1.0
    return table


def _loss(weights: np.ndarray, table: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """Summed negative log-likelihood, and its gradient."""
    logits = table @ weights
    loss = np.logaddexp(0.0, logits) - label * logits
    return float(loss.sum()), table.T @ (1 / (1 + np.exp(-logits)) - label)


def _solve(table: np.ndarray, label: np.ndarray, strength: float) -> np.ndarray:
    penalty = np.full(table.shape[1], strength)
    penalty[-1] = 0.0  # the constant is free

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = _loss(weights, table, label)
        return loss + float(penalty @ weights**2) / 2, gradient + penalty * weights

    found = minimize(objective, np.zeros(table.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x)
