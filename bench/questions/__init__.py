"""The questions, one module each; every module has one ``QUESTION``."""

from __future__ import annotations

from bench.question import Question
from bench.questions import (
    churn,
    commands,
    connect,
    echo,
    fairness,
    fanout,
    hostile,
    idle,
    latency,
    memory,
    orders,
    polls,
    redis_fanout,
    redis_ingest,
    redis_latency,
    redis_users,
    scaling,
    slow,
    store,
    streams,
    tls,
    tls_turns,
)

QUESTIONS: dict[str, Question] = {
    module.QUESTION.name: module.QUESTION
    for module in (
        *(fanout, commands, echo, latency, slow, fairness, memory, connect, idle, scaling, hostile),
        *(
            redis_fanout,
            redis_latency,
            redis_ingest,
            redis_users,
            orders,
            streams,
            polls,
            store,
            tls,
            tls_turns,
            churn,
        ),
    )
}
