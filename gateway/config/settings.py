"""Every setting, with its unit, range and default.

Sources, the first that names a setting wins: command-line flag, environment
(``GATEWAY_PORT``, ``GATEWAY_AUTH_IN_BAND``), configuration file (``gateway.toml``, one
table per group), default. An unknown key or a value out of range raises ``SettingsError``.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

# Up to the last @, since a password may hold one: hiding too much is harmless.
_PASSWORD = re.compile(r"(://[^/:@]*:)\S*@|([?&]password=)[^&\s]*")

Seconds = Annotated[float, msgspec.Meta(gt=0, extra={"unit": "seconds"})]
SecondsOrNone = Annotated[float, msgspec.Meta(ge=0, extra={"unit": "seconds"})]
Count = Annotated[int, msgspec.Meta(ge=1)]
Bytes = Annotated[int, msgspec.Meta(ge=1, extra={"unit": "bytes"})]
HistoryMessages = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
Permissions = dict[str, list[Literal["join", "publish", "presence", "history"]]]


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every group of settings; its ``repr`` shows no secret."""

    def __repr__(self) -> str:
        shown = (f"{name}={_shown(name, getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(name: str, value: object) -> str:
    if name == "secret" and value:
        return "'***'"
    return repr(hide_password(value) if isinstance(value, str) else value)


def hide_password(address: str) -> str:
    """``address`` with ``***`` in place of the password, for messages and logs."""
    return _PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", address)


class AuthSettings(Group, frozen=True):
    """Who may connect. The algorithm comes from here, never from the token."""

    algorithm: Literal["HS256", "RS256", "ES256", "EdDSA"] = "HS256"
    """Signature algorithm of every token.

    Exactly one, so that a token cannot choose a weaker one."""
    secret: str = ""
    """HS256 signing key, at least 32 bytes.

    A shorter key can be found by trying. ``openssl rand -base64 32`` makes one."""
    public_key_file: str = ""
    """PEM file with the public key that verifies RS256, ES256 and EdDSA tokens.

    The gateway then needs no key that can sign: your application keeps that one."""
    private_key_file: str = ""
    """PEM file with the private key that signs such tokens; optional.

    Needed only where the gateway issues tokens itself. Without it a stolen configuration cannot sign
    tokens."""
    jwks_url: str = ""
    """Address of a JSON Web Key Set; replaces ``public_key_file``.

    The issuer can then change its keys without a restart here."""
    jwks_cache: Seconds = 300.0
    """How long fetched keys are used.

    A key that the issuer withdraws is still accepted for up to this long; a shorter time means more
    fetches."""
    jwks_timeout: Seconds = 5.0
    """Deadline of one fetch of the key set.

    Logins that wait for the fetch are refused when it passes, so that a slow issuer does not pile them up."""
    jwks_min_refresh: Seconds = 10.0
    """Shortest time between two fetches caused by an unknown ``kid``.

    Otherwise anyone could make the gateway flood the issuer with made-up key ids."""
    jwks_max_keys: Count = 64
    """Largest number of keys used from one set; further ones are ignored.

    It bounds what a broken issuer can make the gateway hold."""
    audience: str = ""
    """Value that a token's ``aud`` must contain; empty: ``aud`` is not checked.

    Set it where one issuer signs tokens for several services, or a token for another service is accepted
    here."""
    issuer: str = ""
    """Value that a token's ``iss`` must have; empty: ``iss`` is not checked.

    Set it where several issuers share a key set."""
    leeway: Annotated[float, msgspec.Meta(ge=0, le=300)] = 5.0
    """Tolerated difference between the clocks of the issuer and this machine, in ``exp``, ``nbf`` and
    ``iat``.

    Clocks with time synchronisation differ by less than a second; a larger value lets expired tokens in
    for longer."""
    in_band: bool = False
    """Accept connections without a token; they must send ``auth`` first.

    For clients that can set neither headers nor an address. Off, because a connection without a token
    costs memory."""
    in_band_timeout: Seconds = 5.0
    """How long such a connection may take to authenticate.

    Until then it costs memory without a token."""
    ticket_ttl: Seconds = 30.0
    """Lifetime of a ticket, which works once.

    A ticket stands in an address, which logs may keep; it only has to last from the request to the
    connection."""
    max_tickets: Count = 100_000
    """Largest number of open tickets of one organisation, on each node; ten times that for all organisations
    together.

    It bounds the memory that requests for tickets can take."""
    token_ttl: Seconds = 3600.0
    """Lifetime of issued tokens when the request names none.

    An hour is long enough that clients seldom renew, and short enough to limit the use of a stolen token."""
    max_token_ttl: Seconds = 86400.0 * 30
    """Longest lifetime that a request may name.

    A stolen token is good until it expires or is revoked."""
    default_rooms: Permissions = msgspec.field(
        default_factory=lambda: {
            "*": ["join", "publish", "presence", "history"],
            "user:*": ["publish"],
            "connection:*": ["publish"],
        }
    )
    """What a token without a ``rooms`` claim may do, in its own organisation.

    The default trusts every member of an organisation with all of its rooms; narrow it where rooms are
    private."""
    max_revocations: Count = 10_000
    """Largest number of revocations of one organisation, some 500 bytes each.

    It bounds memory. Members who revoke their own refreshed tokens cannot fill another organisation's
    share."""


class CallSettings(Group, frozen=True):
    """One ``[calls."PATTERN"]``: calls whose name matches are forwarded to a backend by HTTP POST."""

    url: Annotated[str, msgspec.Meta(pattern="^https?://[^\\s@]+$")]
    """Address that calls are posted to.

    It names no user or password: those would show up in logs. Sign requests with ``secret`` instead."""
    timeout: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    """Time for the whole call, retries included.

    A client waits for the reply; after a few seconds an error is more useful than more waiting."""
    secret: str = ""
    """Key that signs each request as Standard Webhooks: base64, with or without ``whsec_``. Empty: unsigned.

    The backend can then tell the gateway's requests from anyone else's."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 32
    """Calls in progress at the same time; further ones are refused with 301.

    It protects the backend, and bounds the connections and memory here."""
    per_organisation: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 16
    """Calls of one organisation in progress at the same time; further ones are refused with 301.

    Half of ``concurrency``, so that one organisation cannot take all of it."""
    roles: list[str] = []
    """Roles that may call; a token needs one of them. Empty: every client.

    The backend need not repeat the check."""
    idempotent: bool = False
    """Send a call that got no answer, or HTTP 5xx, again, up to twice, with the same ``webhook-id``.

    Off, because a backend that does not compare ``webhook-id`` would carry out a command twice."""
    private: bool = False
    """Allow a private or loopback address.

    Otherwise such addresses are refused, whatever the name resolves to, so that a changed DNS entry cannot
    lead requests into your network."""
    answer_bytes: Bytes = 256 * 1024
    """Largest answer of the backend; a larger one is a failure.

    It bounds the memory that one call can hold."""
    breaker_failures: Count = 5
    """Failures in a row after which calls are refused at once with 301.

    Waiting for a backend that is down holds clients up, and requests keep it down."""
    breaker_pause: Seconds = 10.0
    """Pause until one call is let through to test the backend.

    Long enough for a backend to restart."""


class LimitSettings(Group, frozen=True):
    """Bounds of one connection, and of one node."""

    message_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 * 2**20)] = 2**20
    """Largest message from a client; a larger one closes the connection with 1009.

    It bounds what one connection can make the gateway hold before a single check."""
    message_values: Annotated[int, msgspec.Meta(ge=64, le=1_000_000)] = 8192
    """Largest number of values and keys in one message or REST body; more are refused with 404.

    A megabyte may hold a million values, and reading those holds the event loop for half a second; the
    default takes 2 ms."""
    queue_messages: Count = 4096
    """Messages that may wait for one slow connection.

    It bounds how far behind a client can fall; beyond it the client's ``overflow`` decides."""
    queue_bytes: Annotated[int, msgspec.Meta(ge=65536)] = 4 * 2**20
    """Bytes that may wait for one slow connection; beyond it the client's ``overflow`` decides.

    Multiplied by the number of slow clients it is the memory that they can take."""
    rooms_per_connection: Count = 1000
    """Rooms that one connection may be in; a further join is refused with 400.

    Each membership takes memory here and, with Redis, may take a subscription there."""
    patterns_per_filter: Count = 64
    """Largest number of patterns in one filter of events.

    Each pattern is compared with each event for the connection."""
    pending_commands: Count = 1024
    """Publishes and calls of one connection that wait for an answer; further ones are refused with 403.

    It bounds the memory of a client that sends faster than the broker answers."""
    connections: Count = 100_000
    """Connections that one process accepts; further ones get HTTP 503.

    Keep it below the number of open files that the system allows, or accepting fails instead."""
    connections_per_ip: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    """Connections from one address that are open at once, WebSocket or HTTP; 0 is no limit. Each worker
    counts its own, as for the next two. ``--dev`` sets 0. Wherever addresses are counted, an IPv6 address
    counts as its network of 64 bits.

    An office or a carrier has thousands of clients behind one address; one machine that uses all of its
    ports has 28,000 and would leave no room for others. Behind a proxy set ``trusted_proxies``."""
    connections_per_user: Annotated[int, msgspec.Meta(ge=0)] = 1000
    """Connections of one user that are open at once; 0 is no limit. ``--dev`` sets 0.

    A person has a few tabs and devices, a service some hundred workers; a page that connects in a loop, or
    a stolen token, has no end."""
    connections_per_organisation: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Connections of one organisation that are open at once; 0 is no limit.

    No limit by default, since an installation may serve a single organisation. Set it where several share
    a node."""
    head_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**20)] = 16384
    """Largest request line with headers; a larger one gets HTTP 431.

    Tokens in headers and addresses must fit."""
    head_timeout: Seconds = 10.0
    """Deadline for a whole request head.

    Without it, clients that send one byte now and then hold connections forever."""
    body_bytes: Bytes = 2**20
    """Largest REST body; at most ``message_bytes``.

    ``message_bytes`` is what clients are told to expect as the largest message."""
    body_timeout: Seconds = 30.0
    """Deadline for a whole REST body.

    A mebibyte over a slow mobile line takes some twenty seconds; a client that stalls is cut off."""
    keep_alive: Seconds = 75.0
    """How long an HTTP connection may stay idle, and how long the head of a later request may take.

    Longer than a proxy in front keeps idle connections (nginx: 60 s): otherwise a request that the proxy
    sends on one meets the close and is lost."""
    send_timeout: Seconds = 30.0
    """How long a peer may take to read 64 KiB of an HTTP answer.

    A peer that stops reading would hold the answer in memory."""
    batch: Count = 100
    """Largest number of operations in one REST batch.

    It bounds how long one request takes."""


Rate = Annotated[float, msgspec.Meta(ge=0)]


class RateSettings(Group, frozen=True):
    """Token buckets, in units per second; 0 is no limit. Above a limit: error 300 or HTTP 429.

    Commands, bytes and joins have no limit by default: organisations take turns, so that one
    organisation's load costs the others little, and the right number differs from service to service."""

    burst: Seconds = 5.0
    """Seconds' worth of units that a full bucket holds.

    Clients send in bursts, at page load for example; the average matters."""
    commands_per_connection: Rate = 0.0
    """Commands of one connection.

    Limits one tab or one worker that runs wild, and none of its user's others."""
    commands_per_user: Rate = 0.0
    """Commands on all connections of one user, and their REST requests.

    A user with many connections cannot multiply their share."""
    commands_per_organisation: Rate = 0.0
    """Commands and REST requests of one organisation.

    Caps a tenant at what it has paid for."""
    commands_per_ip: Rate = 0.0
    """Commands and REST requests from one address.

    There may be many users behind one address: set it well above ``commands_per_user``."""
    bytes_per_connection: Rate = 0.0
    """Bytes of messages of one connection.

    A few large messages cost as much as many small ones, which ``commands_*`` does not see."""
    bytes_per_user: Rate = 0.0
    """Bytes of messages and REST bodies of one user.

    As ``commands_per_user``, by size."""
    bytes_per_organisation: Rate = 0.0
    """Bytes of messages and REST bodies of one organisation.

    As ``commands_per_organisation``, by size."""
    bytes_per_ip: Rate = 0.0
    """Bytes of messages and REST bodies from one address.

    As ``commands_per_ip``, by size."""
    joins_per_connection: Rate = 0.0
    """Joins of one connection.

    A join may read history, so it costs more than other commands."""
    joins_per_user: Rate = 0.0
    """Joins of one user.

    A page that reloads in a loop joins again on each new connection."""
    joins_per_organisation: Rate = 0.0
    """Joins of one organisation.

    Bounds the reads of history when all of its clients return at once."""
    joins_per_ip: Rate = 0.0
    """Joins from one address.

    Slows down anyone who tries room names with several tokens."""
    connections_per_user: Rate = 200.0
    """New connections of one user; ``limits.connections_per_user`` bounds how many are open at once.
    ``--dev`` sets 0.

    After an outage a user's 1,000 allowed connections may all return within ``burst``; a client that is
    refused in a loop is slowed down."""
    connections_per_organisation: Rate = 0.0
    """New connections of one organisation.

    No limit by default, since an installation may serve a single organisation. Set it where several share
    a node."""
    connections_per_ip: Rate = 1000.0
    """New connections from one address. ``--dev`` sets 0.

    A node accepts some thousand new connections a second; one address, possibly an office or a carrier,
    gets a share of them."""
    failed_logins_per_ip: Rate = 20.0
    """Tokens from one address that do not verify; above it the address is refused until the bucket has filled
    again.

    Verifying a signature costs CPU time, and an address that keeps failing is guessing or misconfigured."""
    abuse_after: Count = 500
    """Commands sent sooner than ``retry_after`` allowed, without a pause of one second, after which the
    connection is closed with 4501.

    A client that ignores hundreds of refusals will not stop by itself, and each refusal costs work."""


class OverloadSettings(Group, frozen=True):
    """When the gateway sheds load; 0 is never."""

    loop_lag: Rate = 2.0
    """Event loop lag above which load is shed.

    At two seconds deadlines begin to fail; refusing new work lets the work in hand finish."""
    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Resident memory of the process above which load is shed; 0 leaves it to ``memory_share``.

    Set it where several programs share the machine, and the gateway may not take its share of all of it."""
    memory_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.75
    """The same as a share of the memory of the machine or the control group, divided by ``workers``.

    Every cache, queue and history has its own bound; where their sum exceeds the machine, refusing new
    connections is better than being killed with all of them."""
    retry_after: Seconds = 5.0
    """Delay suggested to clients that are refused.

    With a shorter one their retries become part of the overload."""


class SuspicionSettings(Group, frozen=True):
    """What one address may do within ``window`` before it is reported; 0 is no limit."""

    window: Seconds = 60.0
    """Length of the window in which the next three are counted.

    A minute separates a mistake from an attempt."""
    failed_logins: Annotated[int, msgspec.Meta(ge=0)] = 100
    """Tokens from one address that do not verify.

    Expired tokens behind one office address stay below it; guessing does not."""
    connections: Annotated[int, msgspec.Meta(ge=0)] = 0
    """New connections from one address.

    No limit by default: a carrier's address has thousands."""
    refused_joins: Annotated[int, msgspec.Meta(ge=0)] = 500
    """Joins from one address that are refused for lack of permission.

    So many refusals mean that someone tries room names."""
    ban: Rate = 0.0
    """Time for which a reported address is refused; 0 only reports.

    Off, because a ban also shuts out everyone else behind the address."""


class TraceSettings(Group, frozen=True):
    """Message traces, recipient by recipient (``GET /api/v1/messages/{mid}/trace``)."""

    messages: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Messages remembered; 0 turns tracing off.

    Off, because a trace costs time and memory for each recipient."""
    sample: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Share of the messages that are traced.

    A small share shows the pattern at a small part of the cost."""
    recipients: Count = 1000
    """Connections recorded for one message.

    It bounds what one broadcast to a large room takes."""
    records: Count = 100_000
    """Connections recorded for all messages together; the oldest message goes first.

    It bounds the memory of tracing."""


class ConnectionSettings(Group, frozen=True):
    """The life of one connection."""

    heartbeat: Seconds = 30.0
    """Interval of pings; a peer that is silent for two of them is disconnected.

    Proxies commonly cut after 60 s of silence; a ping every 30 s keeps the connection, and finds dead
    peers within a minute."""
    poll_grace: Seconds = 10.0
    """How long after a poll's timeout a user who has not polled again stays in their rooms.

    Between two polls a client has no connection; without a grace period every poll would take the user out
    of presence."""
    inactivity: SecondsOrNone = 0.0
    """Close a connection that sent no command for this long; 0 is never.

    Never by default: many clients only listen."""
    typing_timeout: Seconds = 5.0
    """How long a user counts as typing after the last message that says so.

    Clients repeat it while keys are pressed; a client that disappears stops typing by itself."""
    expiry_notice: SecondsOrNone = 30.0
    """Time before its token expires at which a client is told; 0 is never.

    Long enough to fetch a new token and renew on the open connection."""
    resume_ttl: Seconds = 300.0
    """How long a resume token is valid after its connection has ended.

    As long as history is kept by default (``history.age``): later there would be nothing to resume."""
    close_timeout: Seconds = 2.0
    """How long the peer has to answer a Close frame.

    A peer that is gone never answers, and its socket would stay."""
    command_timeout: Seconds = 10.0
    """How long one command may wait for the broker or a handler.

    The client gets an error instead of waiting without end."""


class DrainSettings(Group, frozen=True):
    """How clients leave after SIGTERM."""

    delay: SecondsOrNone = 0.0
    """Time from ``/readyz`` turning 503 to the first client leaving.

    Load balancers need some seconds to notice; until then new connections still arrive here. 0 suits a
    gateway without one."""
    pace: Rate = 500.0
    """Clients asked to leave per second; 0 is all at once.

    Another node has to accept them: half of what one node can take leaves it room for its own work."""
    timeout: Seconds = 15.0
    """Time within which the last client is asked; more clients than ``pace`` allows then leave faster.

    Orchestrators kill after 30 s by default, so this, ``delay`` and ``shutdown_timeout`` together must
    stay below that."""


class RedisSettings(Group, frozen=True):
    """How a node uses Redis; ignored by the memory broker."""

    prefix: str = "trireme"
    """Key prefix; use different prefixes to isolate gateways that share a Redis.

    With the same prefix two installations would share rooms and organisations."""
    ca_file: str = ""
    """PEM file with the certificate authorities for a ``rediss`` server; empty: those of the system.

    For servers with a certificate of your own authority."""
    timeout: Seconds = 5.0
    """How long a connection may leave a command without an answer; then it counts as broken, and its pending
    publishes fail.

    Longer than a pause of a healthy Redis (a fork, a slow disk), shorter than a user's patience."""
    patience: Seconds = 1.0
    """How long publishes wait for an unavailable Redis; after that they are refused at once.

    It bridges a reconnect; beyond it waiting only fills queues."""
    retry_after: Seconds = 1.0
    """Delay suggested to clients whose command was refused because Redis is unavailable.

    A fail-over takes a few seconds; clients add their own jitter."""
    max_backoff: Seconds = 2.0
    """Longest pause between two attempts to connect.

    All clients of the node wait for it, so it stays short."""
    heartbeat: Seconds = 2.0
    """Silence after which a connection is pinged.

    A connection that died without a sign is found even while nobody publishes."""
    sweep: Seconds = 10.0
    """Interval at which each joined room's position is compared with Redis.

    Pub/sub can lose a message when a connection dies silently; the comparison finds and repairs it."""
    pending: Count = 20_000
    """Publishes of this node that wait for Redis; further ones are refused with 301.

    It bounds memory and latency while Redis is slow."""
    pending_bytes: Bytes = 64 * 2**20
    """Bytes of these publishes; further ones are refused with 301.

    It bounds memory where messages are large."""
    batch: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 256
    """Largest number of events in one entry of a room's stream.

    Batches save round trips under load; a reader always takes a whole entry."""
    batch_bytes: Bytes = 256 * 1024
    """Largest size of these events together.

    Larger batches save round trips and delay the rooms behind them."""
    inbox_bytes: Bytes = 8 * 2**20
    """Undelivered events held in memory; beyond it the node stops reading until they are delivered.

    It bounds memory; Redis keeps the rest, and the node catches up from the streams."""
    tail: Count = 4096
    """Events that each room's stream keeps at least, within the bytes and the age of its history.

    Nodes that were cut off read from it what they missed."""
    window: Count = 1024
    """Message ids that each room remembers.

    A publish that is repeated after an unclear failure is recognised and not delivered twice."""
    forget: Seconds = 86400.0
    """Time after which the order of an unused room is forgotten; its events go after ``history.age``.

    Rooms that never come back would fill Redis. A client that returns later is told that the order began
    anew."""
    linger: Seconds = 5.0
    """How long a room without local members stays subscribed.

    A page reload leaves and joins within seconds, and costs no new subscription."""


class RoomHistory(Group, frozen=True, omit_defaults=True):
    """What is kept of the rooms of one pattern; absent values are those of ``history``."""

    messages: HistoryMessages | None = None
    """Largest number of events.

    See ``history.messages``."""
    bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Largest size of the events' data and names.

    See ``history.bytes``."""
    age: Seconds | None = None
    """Age at which an event is removed.

    See ``history.age``."""


class UserHistory(Group, frozen=True, omit_defaults=True):
    """What is kept of the messages to one user."""

    messages: HistoryMessages = 256
    """Largest number of events.

    See ``history.messages``."""
    bytes: Annotated[int, msgspec.Meta(ge=0)] = 2**20
    """Largest size of the events' data and names.

    See ``history.bytes``."""
    age: Seconds = 86400.0
    """Age at which an event is removed.

    A user may be away for a day."""


class RoomEvents(Group, frozen=True, omit_defaults=True):
    """One ``[events.patterns."PATTERN"]``: what is published to rooms whose name matches is checked."""

    types: list[str] = []
    """Names or patterns of events; empty: every event. Data of events with a type must fit it (103, 104).

    A publisher's mistake is refused where it is made, not found by each reader."""
    strict: bool = False
    """Refuse (107) events that ``types`` does not name, and those without a type.

    Off, so that a new event needs no new configuration."""


class EventSettings(Group, frozen=True):
    """Which events rooms accept (``docs/events.md``); without a pattern nothing is checked."""

    patterns: dict[str, RoomEvents] = {}
    """Room pattern → what is checked in its rooms; the first pattern that matches counts. Rooms of executions
    are not checked.

    One application's mistake then does not reach the readers of its rooms; events of executions are
    checked when they are reported."""


class SupervisorSettings(Group, frozen=True):
    """How ``--workers`` above 1 watches over its processes."""

    restarts: Count = 10
    """Workers that may die within ``window``; after one more the supervisor exits with code 3.

    A fault that returns at once is for the service manager to see."""
    window: Seconds = 60.0
    """Length of the window in which deaths are counted.

    A crash now and then is no reason to stop."""
    backoff: Seconds = 0.5
    """Pause before a worker is started again; doubled for each that died within ``window``.

    A worker that dies at its start must not use up the CPU."""
    backoff_maximum: Seconds = 15.0
    """Longest pause before a worker is started again.

    Capacity is missing meanwhile."""
    start_timeout: Seconds = 30.0
    """Time in which a worker must listen; otherwise it is killed, and counts as dead.

    Extensions may load slowly; a worker that hangs never gets ready."""
    silence: Annotated[float, msgspec.Meta(ge=2)] = 5.0
    """Time without a sign of life, due every second, after which a worker is killed and replaced.

    Its event loop is stuck, and its clients with it."""


class HistorySettings(Group, frozen=True):
    """What is kept of each room; the oldest event is removed when one of the three bounds is passed."""

    messages: HistoryMessages = 256
    """Largest number of events kept of each room; 0 keeps none.

    A client that reconnects can be given this many."""
    bytes: Annotated[int, msgspec.Meta(ge=0)] = 2**20
    """Largest size of the events kept of each room.

    It keeps a room of large events from taking the memory of many rooms."""
    age: Seconds = 300.0
    """Age at which an event is removed.

    Longer than clients are usually away."""
    patterns: dict[str, RoomHistory] = {}
    """Room pattern → other bounds for its rooms; the first pattern that matches counts.

    Prices need no history, conversations need more than most."""
    organisation: RoomHistory = RoomHistory()
    """Bounds of what is published to a whole organisation.

    Every client of the organisation reads it, so it may deserve more than a room."""
    user: UserHistory = UserHistory()
    """Bounds of what is sent to one user.

    A user may be away for longer than a room's reader."""
    total_bytes: Bytes = 512 * 2**20
    """Largest size of all histories together: rooms, organisations and users. In memory the organisation that
    keeps most gives way: its rooms without members first, then its oldest events. With Redis an
    organisation that keeps three quarters of it, or more than an even share when all is used, is refused
    with 301; its resume notes there may take a 32nd part.

    Many small histories add up; without it their number would decide how much memory is used."""
    rooms: Count = 100_000
    """Rooms kept without a member (memory broker); the longest unused of the organisation with most is
    removed. With Redis: rooms that keep events, shared as ``total_bytes``. Users are not counted here but
    in ``total_bytes``: 2 kB for a user with one small message in memory, 1.2 kB in Redis.

    A client that makes up room names then cannot fill the memory."""
    page: Count = 256
    """Largest number of events in one page of ``history``.

    Reading a page holds the event loop, so it stays small."""


class ClusterSettings(Group, frozen=True):
    """How nodes that share a Redis act as one; ignored by a single node."""

    lease: Annotated[float, msgspec.Meta(ge=0.5, le=300)] = 10.0
    """Longest time that a dead node's users stay in presence.

    A shorter lease makes a node that is only slow look dead."""
    answer_timeout: Seconds = 2.0
    """How long other nodes may take to answer a request.

    A node that hangs must not hold up the answer of all others."""
    pending: Count = 10_000
    """Requests that wait for answers, and answers that wait to be sent; further ones are refused with 301.

    It bounds memory while a node is slow."""
    answer_bytes: Bytes = 8 * 2**20
    """Largest answer of one node.

    It bounds memory; lists are paged well below it."""


class StoreSettings(Group, frozen=True):
    """How the database of ``database`` is used."""

    notifications_keep: Annotated[float, msgspec.Meta(gt=0, le=36500)] = 30.0
    """Days after which a notification is removed, read or not.

    A month is longer than most absences; without an end the table only grows."""
    approvals_keep: Annotated[float, msgspec.Meta(gt=0, le=36500)] = 30.0
    """Days after its decision at which an approval is removed.

    Long enough to look up who decided what."""
    approvals_longest: Annotated[float, msgspec.Meta(gt=0, le=31_536_000)] = 30 * 86400.0
    """Longest deadline of an approval, and the deadline of one that names none.

    An approval that nobody decides must end at some time."""
    approvals_open: Count = 1000
    """Open approvals of one organisation; one more is refused with 405.

    An agent that asks in a loop then cannot fill the database."""
    approvals_open_bytes: Bytes = 8 * 2**20
    """Largest size of the open approvals of one organisation together.

    An agent that attaches documents cannot fill the database."""
    approvals_reach: Count = 1000
    """Users of a role who are told of one approval.

    It bounds the messages that one approval causes."""
    approvals_waiting: Count = 1000
    """Requests of one node that wait for a decision, a quarter of them for one organisation; further ones are
    refused with 301.

    Each holds a connection open for minutes."""
    pool: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Connections, each with a thread, that read; one more writes.

    Reads are short; a database has few connections to give."""
    timeout: Seconds = 5.0
    """How long one operation may wait for the database.

    A client gets an error instead of waiting without end."""
    retry_after: Seconds = 1.0
    """Delay suggested to clients whose request was refused because the database is unavailable.

    A restart or fail-over takes a few seconds; clients add their own jitter."""
    lease: Annotated[float, msgspec.Meta(ge=0.5, le=3600)] = 10.0
    """How long a node has to deliver what it has committed, before another node may deliver it.

    It covers a node that dies between commit and delivery; too short, and a slow node's deliveries are
    repeated."""
    sweep: Seconds = 60.0
    """Interval at which one of the nodes removes old and expired rows.

    A minute keeps each removal small."""
    group: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200
    """Largest number of rows written in one commit.

    One commit for many rows is what makes writes fast; a larger one holds locks for longer."""
    pending: Count = 10_000
    """Writes that wait for their commit; further ones are refused with 301.

    It bounds memory and latency while the database is slow."""
    pending_bytes: Bytes = 64 * 2**20
    """Bytes of these writes; further ones are refused with 301.

    It bounds memory where rows are large."""
    pending_reads: Count = 1000
    """Reads that wait for a connection; further ones are refused with 301.

    Beyond it waiting would exceed ``timeout`` anyway."""
    unread_maximum: Count = 1000
    """Count at which the counting of a user's unread notifications stops.

    A badge shows 99+; counting millions of rows for it would be slow."""
    strict: bool = False
    """Let ``/readyz`` answer 503 while the database is unavailable.

    Off, because rooms and messages work without the database, and another node would have the same
    trouble."""


class ExecutionSettings(Group, frozen=True):
    """Executions (``docs/executions.md``). No bound in bytes counts above a sixteenth of
    ``limits.message_bytes``, so that an event can carry the whole execution."""

    vocabularies: list[Literal["a", "c"]] = []
    """Further events to the organisation: ``a`` sends ``agent:execution:start`` and so on, ``c`` sends
    ``agent_execution_started``, ``councilor_started`` and so on.

    For pages that already listen to these names."""
    stale: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 3600.0
    """Time without a report after which an execution is ended with the error ``stale``; 0 is never.

    A worker that was killed reports nothing, and its execution would run forever in every list."""
    keep: Annotated[int, msgspec.Meta(ge=1, le=36500)] = 90
    """Days (UTC) after which an execution is removed, also from summaries.

    A quarter of a year covers the charts; without an end the table only grows."""
    input_bytes: Bytes = 16 * 1024
    """Largest ``input``, as JSON.

    Every event of an execution carries it, so it is small."""
    result_bytes: Bytes = 64 * 1024
    """Largest ``result``, as JSON.

    Larger results belong in a store of their own, with the address in the result."""
    metadata_bytes: Bytes = 4096
    """Largest ``metadata``, as JSON.

    Every event of an execution carries it."""
    tools_bytes: Bytes = 4096
    """Largest list of ``tools``, as JSON.

    Every event of an execution carries it."""
    error_bytes: Bytes = 4096
    """Largest ``error``.

    A longer stack trace belongs in a log."""
    updates_bytes: Bytes = 64 * 1024
    """Largest timeline of one execution, some 500 updates; the oldest are removed first.

    It bounds what an execution that reports every second takes in the database."""


class TlsSettings(Group, frozen=True):
    """Certificate chain and key as PEM files; both or none."""

    certificate: str = ""
    """File with the certificate chain.

    Leave both empty where a proxy in front terminates TLS."""
    key: str = ""
    """File with the private key of the certificate, without a password.

    There is nobody to type a password at a restart; protect the file by its permissions (600)."""


class LogSettings(Group, frozen=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged.

    ``debug`` writes a line for each connection."""
    format: Literal["auto", "human", "json"] = "auto"
    """``human``, ``json``, or ``auto``: human on a terminal, JSON otherwise.

    People read terminals, programs read files."""


class Settings(Group, frozen=True):
    """The whole configuration of one gateway process."""

    host: str = "127.0.0.1"
    """Address to listen on; ``0.0.0.0`` or ``::`` listens everywhere.

    The default is reachable from this machine only, until you decide otherwise."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    """Port of everything: WebSocket, REST, pages and metrics. 0 takes a free one.

    One port needs one rule in a firewall or proxy."""
    broker: str = "memory"
    """Where rooms have their order and history: ``memory``, or the address of a Redis or Valkey that several
    processes share (``redis://HOST:6379``, ``rediss://``, ``redis+unix://``, ``redis+sentinel://``,
    ``redis+cluster://``).

    ``memory`` needs nothing else, and suits one process that may forget its rooms at a restart."""
    database: str = "sqlite:///data/gateway.db"
    """Where notifications, executions and approvals are kept; ``none`` turns them off.

    SQLite needs no server and suits one machine; several machines need PostgreSQL."""
    workers: Count = 1
    """Processes that share the port; more than one need a Redis broker.

    A process uses one core."""
    own_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """First of the additional ports that each worker has to itself: worker one gets this one, worker two the
    next, and so on; 0 is none.

    A request for ``/metrics`` on the shared port is answered by any worker; Prometheus has to reach each."""
    dev: bool = False
    """Development mode: a generated signing key, connection limits by address and user off, a token on the
    terminal.

    Never in production: anyone who reads the terminal or ``data_dir`` can sign tokens."""
    data_dir: str = "data"
    """Folder in which development mode keeps its generated key.

    Tokens stay valid over a restart."""
    node: str = ""
    """Name of this node in ``connected``, stats and metrics; generated when empty.

    A name of your own (the pod's, the host's) is found again in logs."""
    extensions: list[str] = []
    """Python modules whose ``setup(gateway)`` is called before the start.

    They register handlers of ``call`` (``docs/extending.md``)."""
    allowed_origins: list[str] = []
    """Origins that browsers may connect from; empty allows every one.

    Set it in production: a browser sends the origin of the page, so other sites cannot use a visitor's
    token."""
    trusted_proxies: list[str] = []
    """Addresses and networks of proxies whose ``X-Forwarded-For`` is believed, for limits by address.

    Nobody is believed by default, because any client can send the header. Behind a proxy all clients share
    one address until it is named here."""
    shutdown_timeout: Seconds = 10.0
    """How long flushing and closing may take after the last client was asked to leave.

    Long enough for full queues on slow lines; a peer that does not read must not hold up a release."""
    retry_after: Seconds = 1.0
    """Shortest delay suggested to clients at shutdown; each client gets a different one, up to twice as long.

    Clients that all return at the same moment would overload the next node."""
    auth: AuthSettings = AuthSettings()
    calls: dict[str, CallSettings] = {}
    """Pattern of call names → backend that answers them by HTTP (``docs/calls.md``).

    A backend in any language can answer commands of the page without Python in the gateway."""
    weights: dict[str, Annotated[int, msgspec.Meta(ge=1, le=100)]] = {}
    """Organisation → its share of reading and writing under load; 1 where none is given.

    With equal shares the largest customer waits as long as the smallest."""
    limits: LimitSettings = LimitSettings()
    rates: RateSettings = RateSettings()
    overload: OverloadSettings = OverloadSettings()
    suspicion: SuspicionSettings = SuspicionSettings()
    trace: TraceSettings = TraceSettings()
    connection: ConnectionSettings = ConnectionSettings()
    drain: DrainSettings = DrainSettings()
    supervisor: SupervisorSettings = SupervisorSettings()
    history: HistorySettings = HistorySettings()
    events: EventSettings = EventSettings()
    redis: RedisSettings = RedisSettings()
    cluster: ClusterSettings = ClusterSettings()
    store: StoreSettings = StoreSettings()
    executions: ExecutionSettings = ExecutionSettings()
    tls: TlsSettings = TlsSettings()
    log: LogSettings = LogSettings()


class SettingsError(Exception):
    """The configuration cannot be used; the message is one clear line."""
