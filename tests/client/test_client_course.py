"""Which way is tried next, and how a stream is cut into messages: without any network."""

from __future__ import annotations

import pytest

from gateway.client import ConnectionFailed, ConnectionRefused, TransportKind
from gateway.client.course import TRANSPORTS, Course
from gateway.client.event_stream import EventStreamParser, EventTooLarge

WEBSOCKET, SSE, POLL = TRANSPORTS


def test_what_worked_is_tried_first_and_the_rest_after_it() -> None:
    course = Course(TRANSPORTS, 30.0)
    assert course.order() == [WEBSOCKET, SSE, POLL]
    course.works(SSE)
    assert course.order() == [SSE, POLL, WEBSOCKET]
    course.works(WEBSOCKET)
    assert course.order() == [WEBSOCKET, SSE, POLL]


@pytest.mark.parametrize(
    ("error", "blocked"),
    [
        (ConnectionRefused(403, "a proxy's page"), True),
        (ConnectionRefused(502, "a proxy's page"), True),
        (ConnectionRefused(403, "this origin is not allowed", code=202), False),
        (ConnectionRefused(401, "expired", code=201), False),
        (ConnectionFailed("nothing answers"), True),
        (ConnectionFailed("nobody is there", reached=False), False),
        (ConnectionFailed("closed with 1008", token=True), False),
    ],
)
def test_what_may_be_due_to_the_way(error: ConnectionFailed | ConnectionRefused, blocked: bool) -> None:
    assert Course(TRANSPORTS, 30.0).blocked(error) == blocked


def test_websockets_that_break_at_once_are_given_up_after_three() -> None:
    course = Course(TRANSPORTS, 30.0)
    for lasted, broken in [(False, True), (False, True), (True, True), (False, True), (False, False)]:
        course.ended(WEBSOCKET, lasted=lasted, broken=broken)
    assert course.first == 0
    for _ in range(3):
        course.ended(WEBSOCKET, lasted=False, broken=True)
    assert course.order() == [SSE, POLL, WEBSOCKET]
    only = Course([WEBSOCKET], 30.0)
    for _ in range(9):
        only.ended(WEBSOCKET, lasted=False, broken=True)
    assert only.order() == [WEBSOCKET]


def test_the_best_is_tried_again_ever_more_rarely() -> None:
    course = Course(TRANSPORTS, 30.0)
    course.works(SSE)
    assert [course.wait() for _ in range(6)] == [30, 60, 120, 240, 300, 300]
    course.works(WEBSOCKET)
    assert course.wait() == 30
    assert course.degraded(TransportKind.POLL) and not course.degraded(WEBSOCKET)


STREAM = (
    b"\xef\xbb\xbf: hello\n\ndata: {1}\nid: x\n\nid: y\n\r\n"
    b"data:two\r\ndata: lines\r\n\r\nevent: e\ndata: torn"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_streams_are_cut_alike_however_they_come(size: int) -> None:
    parser = EventStreamParser(100)
    found = [
        each for start in range(0, len(STREAM), size) for each in parser.feed(STREAM[start : start + size])
    ]
    assert found == [b"{1}", b"two\nlines"]


def test_what_never_ends_is_refused() -> None:
    for piece in (b"data: " + b"a" * 40, b"data: a\ndata: " + b"a" * 10 + b"\n"):
        parser = EventStreamParser(100)
        with pytest.raises(EventTooLarge):
            for _ in range(20):
                parser.feed(piece)
