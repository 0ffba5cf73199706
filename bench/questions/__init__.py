"""The questions, one module each; every module has one ``QUESTION``."""

from __future__ import annotations

from bench.question import Question
from bench.questions import fanout

QUESTIONS: dict[str, Question] = {module.QUESTION.name: module.QUESTION for module in (fanout,)}
