"""Hypothesis strategies for values, envelopes and near-envelopes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from protocol.envelope import KINDS, Envelope
from protocol.values import MAX_INT, MIN_INT

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.one_of(
    st.integers(0, MAX_INT),
    st.sampled_from([0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, MAX_INT]),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(MIN_INT, MAX_INT),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any shape of containers around leaves, with now and then a deep one."""
    bushy = st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=12,
    )
    return st.builds(wrap, bushy, st.lists(st.booleans(), max_size=12))


def wrap(value: Any, shells: list[bool]) -> Any:
    """Put ``value`` into one container for each of ``shells``."""
    for is_map in shells:
        value = {"k": value} if is_map else [value]
    return value


def depth(value: Any) -> int:
    """Containers inside each other, the slow and obvious way."""
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


values = nested(scalars).filter(lambda value: depth(value) <= 15)

envelopes = st.builds(
    Envelope,
    t=st.sampled_from(sorted(KINDS)),
    id=st.none() | numbers,
    room=st.none() | texts,
    event=st.none() | texts,
    data=values,
    seq=st.none() | numbers,
    epoch=st.none() | texts,
    ts=st.none() | numbers,
    mid=st.none() | texts,
    sender=st.none() | texts,
    code=st.none() | numbers,
    message=st.none() | texts | st.text("x", min_size=200, max_size=300),
    critical=st.none() | st.booleans(),
    to=st.none() | st.sampled_from(["user", "connection"]) | texts,
).filter(lambda envelope: envelope.t != "publish" or depth(envelope.data) <= 12)

anything = nested(scalars | st.integers(-(2**64), 2**64 - 1))
"""Values that may be too deep, or integers that may be too large; CBOR has none beyond."""
