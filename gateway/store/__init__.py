"""Notifications, executions and approvals in a database: SQLite in a file, or PostgreSQL.

```
async with Store.open(settings.database, settings.store) as store:
    created = await store.notifications.create("acme", ["alice"], type="info", title="Hi", message="…")
    for entry in created.entries:
        …  # deliver it: entry.event, .mid, .data to entry.user
    store.outbox.done(entry.id for entry in created.entries)
```
Somebody has to ask ``store.outbox.claim()`` now and then, and deliver what it gives: what a dead node
committed and did not deliver. All of it runs in threads; the loop waits for no database. The store knows no
hub, no session and no REST, and checks no permission: the organisation and the user are the caller's word.

Every operation raises ``ProtocolError``: 104 for what cannot be stored, 301 when too much waits, 303 when
nobody knows whether it was stored (repeat it with the same ``mid``), 305 when it was not, because the
database is unreachable, locked or full; 301, 303 and 305 have a ``retry_after``.

From bottom to top: ``ids``, ``tables``, ``failures``, ``engine``, ``database`` (threads, deadlines),
``writer`` (group commit), ``rows``, ``queries``, ``values``, ``cursors``, ``approval_tables``,
``approval_values``, ``approval_queries``, ``outbox``, ``notifications``, ``approval_telling``,
``approval_changes``, ``approvals``, ``leases``, ``retention``, ``executions`` (a package of its own),
``schema`` (Alembic), ``store``.
"""

from __future__ import annotations

from gateway.store.approval_values import Approval, Origin, Status
from gateway.store.approvals import Approvals, Asked, Pulse, Verdict
from gateway.store.notifications import Changed, Created, Notifications, Page
from gateway.store.outbox import Entry, Outbox
from gateway.store.schema import EMPTY, migrate, newest_version, schema_version
from gateway.store.store import Store
from gateway.store.values import Notification

__all__ = [
    "EMPTY",
    "Approval",
    "Approvals",
    "Asked",
    "Changed",
    "Created",
    "Entry",
    "Notification",
    "Notifications",
    "Origin",
    "Outbox",
    "Page",
    "Pulse",
    "Status",
    "Store",
    "Verdict",
    "migrate",
    "newest_version",
    "schema_version",
]
