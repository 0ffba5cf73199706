"""Jobs that one node does at a time."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, or_
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.tables import leases

__all__ = ["Lease"]


class Lease:
    """The right of the node ``owner`` to do the job ``name``."""

    def __init__(self, name: str, *, owner: str, postgres: bool) -> None:
        self._named: Final = {"name": name, "owner": owner}
        upsert = (postgresql if postgres else sqlite).insert(leases)
        self._claim = upsert.on_conflict_do_update(
            index_elements=["name"],
            set_={"owner": upsert.excluded.owner, "until_ms": upsert.excluded.until_ms},
            where=or_(leases.c.until_ms < bindparam("now"), leases.c.owner == owner),
        ).returning(leases.c.owner)

    def claim(self, connection: Connection, now: int, length: int) -> bool:
        """In a writer's transaction: whether the job is this node's for ``length`` ms; False: another's."""
        parameters = {**self._named, "until_ms": now + length, "now": now}
        return connection.execute(self._claim, parameters).first() is not None
