"""What can be done with a gateway: every operation, with its rules, once.

Session commands, REST, extensions and embedding programs are thin callers. Each operation takes the
:class:`~gateway.auth.identity.Identity` of the caller, checks names, permissions, sizes and limits, and
raises ``ProtocolError`` with a numbered reason to refuse. ``org`` is the organisation that it applies to:
None is the caller's own; only an admin may name another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.operations.approvals import Approvals
from gateway.operations.checked import CheckedEvents
from gateway.operations.connections import Connections
from gateway.operations.events import Events
from gateway.operations.execution_relay import Relay
from gateway.operations.execution_upkeep import Upkeep
from gateway.operations.executions import Executions
from gateway.operations.inbox import Inbox
from gateway.operations.notifications import Notifications
from gateway.operations.rooms import Rooms
from gateway.operations.tokens import Tokens
from protocol.registry import EventTypes

if TYPE_CHECKING:
    from gateway.auth.tokens import Authenticator
    from gateway.cluster.base import Cluster
    from gateway.config.settings import Settings
    from gateway.hub.hub import Hub
    from gateway.limits.overload import Overload

__all__ = ["Operations"]


class Operations:
    """All operations of one node. They reach the whole cluster."""

    __slots__ = (
        *("approvals", "connections", "events", "executions", "notifications", "rooms", "tokens", "types"),
    )

    def __init__(
        self, settings: Settings, hub: Hub, cluster: Cluster, auth: Authenticator, overload: Overload
    ) -> None:
        self.types = EventTypes()
        """The types of events that are known, the application's own included."""
        patterns = settings.events.patterns
        self.events = (
            CheckedEvents(hub, cluster, overload, self.types, patterns)
            if patterns
            else Events(hub, cluster, overload)
        )
        """Publish, send, trace."""
        self.rooms = Rooms(
            hub,
            cluster,
            largest_page=settings.history.page,
            message_bytes=settings.limits.message_bytes,
        )
        """History, presence, the list of rooms."""
        self.connections = Connections(cluster)
        """List, look at and close connections; statistics."""
        self.tokens = Tokens(auth, cluster, settings.auth)
        """Issue, refresh and revoke tokens; tickets."""
        relay = Relay(self.events, settings.executions.vocabularies, lease=settings.store.lease)
        upkeep = Upkeep(settings.executions)
        inbox = Inbox(
            settings.database,
            settings.store,
            settings.executions,
            self.events,
            beside=(relay.run, upkeep.run),
        )
        self.notifications = Notifications(inbox)
        """Create, list, read and delete notifications; their ``inbox`` has to run."""
        self.executions = Executions(hub, inbox, relay, upkeep, settings)
        """Report, look up and sum up executions."""
        self.approvals = Approvals(hub, inbox, settings.store)
        """Ask for approvals, list, wait for and decide them; their ``watch`` has to run."""

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics: name → what it is, and its value now; a name in ``_total`` is a counter's."""
        return {
            **self.notifications.inbox.measures(),
            **self.executions.measures(),
            **self.approvals.measures(),
        }
