"""The questions, one module each; every module has one ``QUESTION``."""

from __future__ import annotations

from bench.question import Question
from bench.questions import (
    commands,
    connect,
    echo,
    fairness,
    fanout,
    idle,
    latency,
    memory,
    redis_fanout,
    redis_ingest,
    redis_latency,
    scaling,
    slow,
    store,
)

QUESTIONS: dict[str, Question] = {
    module.QUESTION.name: module.QUESTION
    for module in (
        *(fanout, commands, echo, latency, slow, fairness, memory, connect, idle, scaling),
        *(redis_fanout, redis_latency, redis_ingest, store),
    )
}
