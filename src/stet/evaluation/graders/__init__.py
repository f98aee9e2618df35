"""Graders: they extract the answer from a text, and decide whether it is right."""

from stet.evaluation.graders.answer_line import AnswerLine
from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.choice import Choice
from stet.evaluation.graders.exact import ExactGrader
from stet.evaluation.graders.function import FunctionGrader
from stet.evaluation.graders.mathematics import MathVerify
from stet.evaluation.graders.number import Number
from stet.evaluation.graders.registry import available_graders, register, resolve_grader

__all__ = [
    "AnswerLine",
    "Choice",
    "ExactGrader",
    "FunctionGrader",
    "Grader",
    "MathVerify",
    "Number",
    "available_graders",
    "register",
    "resolve_grader",
]
