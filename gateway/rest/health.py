"""Whether the gateway lives, whether it takes work, and its metrics."""

from __future__ import annotations

from quart import Blueprint, Response

from gateway.metrics import CONTENT_TYPE
from gateway.rest.http import reply
from gateway.rest.models import PlainText, Readiness
from gateway.rest.openapi import operation
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["blueprint"]

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@operation(tags="operation", answer=Readiness, public=True)
async def get_health() -> Response:
    """Answer 200 while the event loop responds."""
    return reply(Readiness(status="ok"))


@blueprint.get("/readyz")
@operation(tags="operation", answer=Readiness, errors=[503], public=True)
async def get_readiness() -> Response:
    """Answer 200 while the gateway accepts work: not draining, not shedding load, its broker available.

    `database` says whether notifications can be stored and read now; 503 for it only with `store.strict`.
    """
    found = services()
    if found.is_draining():
        raise ProtocolError(
            ErrorCode.SHUTTING_DOWN, "this node is shutting down", retry_after=found.settings.retry_after
        )
    if found.guard.overload.reason is not None:
        raise ProtocolError(
            ErrorCode.OVERLOADED,
            f"shedding load: {found.guard.overload.reason}",
            retry_after=found.guard.overload.retry_after,
        )
    reason = found.broker.ready() or found.cluster.ready()
    if reason is not None:
        raise ProtocolError(
            ErrorCode.BROKER_UNAVAILABLE, f"broker: {reason}", retry_after=found.settings.retry_after
        )
    inbox = found.operations.notifications.inbox
    reason = inbox.ready() if inbox.enabled else None
    if reason is not None and inbox.strict:
        raise ProtocolError(
            ErrorCode.DATABASE_UNAVAILABLE,
            f"database: {reason}",
            retry_after=found.settings.store.retry_after,
        )
    breakers = {backend.pattern: backend.state.value for backend in found.calls.backends}
    return reply(
        Readiness(
            status="ready",
            detail="; ".join(found.cluster.warnings()),
            database=reason is None if inbox.enabled else None,
            calls=breakers or None,
        )
    )


@blueprint.get("/metrics")
@operation(tags="operation", answer=PlainText, public=True)
async def get_metrics() -> Response:
    """Show all counters for Prometheus; no token is needed."""
    return Response(services().metrics.render(), content_type=CONTENT_TYPE)
