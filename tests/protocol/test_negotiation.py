from __future__ import annotations

import pytest

from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.json import JSON
from protocol.negotiation import NegotiationError, choose_subprotocol


@pytest.mark.parametrize(
    "offered, codec",
    [
        ([], JSON),
        (["trireme.v1.json"], JSON),
        (["trireme.v1.cbor"], CBOR),
        (["trireme.v1.json", "trireme.v1.cbor"], CBOR),
        (["trireme.v2.cbor", "trireme.v1.json", "graphql-ws"], JSON),
    ],
)
def test_the_servers_preference_decides(offered: list[str], codec: Codec) -> None:
    assert choose_subprotocol(offered) is codec


@pytest.mark.parametrize(
    "offered", [["graphql-ws"], ["TRIREME.V1.JSON"], [""], ["trireme.v1.json "], ["json", "cbor"]]
)
def test_only_unknown_ones_are_refused_with_the_known_ones(offered: list[str]) -> None:
    with pytest.raises(NegotiationError, match=r"trireme\.v1\.cbor, trireme\.v1\.json") as caught:
        choose_subprotocol(offered)
    assert caught.value.known == ("trireme.v1.cbor", "trireme.v1.json")


def test_codecs_say_what_they_are() -> None:
    assert (JSON.name, JSON.subprotocol, JSON.binary) == ("json", "trireme.v1.json", False)
    assert (CBOR.name, CBOR.subprotocol, CBOR.binary) == ("cbor", "trireme.v1.cbor", True)
