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
    """Signature algorithm of every token. One, so that a token cannot choose a weaker one."""
    secret: str = ""
    """HS256 signing key, at least 32 bytes."""
    public_key_file: str = ""
    """PEM file that checks RS256, ES256 and EdDSA tokens."""
    private_key_file: str = ""
    """PEM file with which the gateway issues such tokens (optional)."""
    jwks_url: str = ""
    """Address of a JSON Web Key Set; takes the place of ``public_key_file``."""
    jwks_cache: Seconds = 300.0
    """How long fetched keys are used. A key that the issuer withdraws is accepted for up to this long."""
    jwks_timeout: Seconds = 5.0
    """Deadline of one fetch. Logins that wait for it are refused when it passes."""
    jwks_min_refresh: Seconds = 10.0
    """At least this long between two fetches caused by an unknown ``kid``."""
    jwks_max_keys: Count = 64
    """Keys that are used of one set; further ones are ignored. It bounds what a broken issuer can send."""
    audience: str = ""
    """Value that ``aud`` of a token must hold; empty: ``aud`` is not checked. Set it where one issuer signs
    for several services."""
    issuer: str = ""
    """Value that ``iss`` of a token must have; empty: ``iss`` is not checked."""
    leeway: Annotated[float, msgspec.Meta(ge=0, le=300)] = 5.0
    """Difference between the clocks of the issuer and this machine that is tolerated in ``exp``, ``nbf`` and
    ``iat``."""
    in_band: bool = False
    """Upgrade connections without a token; they must send ``auth`` first."""
    in_band_timeout: Seconds = 5.0
    """How long such a connection may take to authenticate. Until then it costs memory without a token."""
    ticket_ttl: Seconds = 30.0
    """Lifetime of a ticket, which works once. It only has to last from the request to the connection."""
    max_tickets: Count = 100_000
    """Open tickets of each organisation, on each node; ten times that of all organisations together."""
    token_ttl: Seconds = 3600.0
    """Lifetime of issued tokens when none is asked for."""
    max_token_ttl: Seconds = 86400.0 * 30
    """Longest lifetime that may be asked for. A stolen token is good until it ends or is revoked."""
    default_rooms: Permissions = msgspec.field(
        default_factory=lambda: {
            "*": ["join", "publish", "presence", "history"],
            "user:*": ["publish"],
            "connection:*": ["publish"],
        }
    )
    """What a token without a ``rooms`` claim may do, in its own organisation."""
    max_revocations: Count = 10_000
    """Revocations that each organisation may hold, some 500 bytes each; a member who revokes refreshed tokens
    fills no other organisation's."""


class CallSettings(Group, frozen=True):
    """One ``[calls."PATTERN"]``: calls whose name matches are forwarded to a backend by HTTP POST."""

    url: Annotated[str, msgspec.Meta(pattern="^https?://[^\\s@]+$")]
    """Address that calls are posted to."""
    timeout: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    """Seconds for the whole call, retries included."""
    secret: str = ""
    """Signs each request as Standard Webhooks: base64, with or without ``whsec_``. Empty: unsigned."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 32
    """Calls under way at the same time; one more is refused with 301."""
    per_organisation: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 16
    """The same for one organisation, so that it cannot take all."""
    roles: list[str] = []
    """Who may call: any of these roles. Empty: every client."""
    idempotent: bool = False
    """A call that got no answer, or HTTP 5xx, is sent again, up to twice, with the same ``webhook-id``."""
    private: bool = False
    """Allow a private or loopback address (otherwise refused, whatever the name resolves to)."""
    answer_bytes: Bytes = 256 * 1024
    """Largest answer of the backend; a larger one is a failure. It bounds what one call can hold in
    memory."""
    breaker_failures: Count = 5
    """After so many failures in a row calls are refused at once with 301."""
    breaker_pause: Seconds = 10.0
    """Seconds until one call is let through to try again."""


class LimitSettings(Group, frozen=True):
    """Bounds of one connection, and of one node."""

    message_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 * 2**20)] = 2**20
    """Largest message from a client; a larger one closes with 1009."""
    message_values: Annotated[int, msgspec.Meta(ge=64, le=1_000_000)] = 8192
    """Values and keys in one message or REST body; more are refused with 404.

    A megabyte may hold a million, which hold the event loop for half a second; so many take 2 ms."""
    queue_messages: Count = 4096
    """Messages that may wait for one slow connection."""
    queue_bytes: Annotated[int, msgspec.Meta(ge=65536)] = 4 * 2**20
    """Bytes that may wait for one slow connection. What happens then is the client's choice (``overflow``);
    so many times the number of slow clients is the memory they can take."""
    rooms_per_connection: Count = 1000
    """Rooms that one connection may be in; a further join is refused with 400."""
    patterns_per_filter: Count = 64
    """Patterns in one filter of events. Each is compared with each event of the connection."""
    pending_commands: Count = 1024
    """Publishes of one connection that wait for the broker, and its calls; more are refused with 403."""
    connections: Count = 100_000
    """Connections that one process accepts; more get HTTP 503. Keep it below the open files that the system
    allows."""
    connections_per_ip: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    """Open at once, of every kind, WebSocket or HTTP; 0 is no limit. Each worker counts its own, as for the
    next two. With ``--dev`` 0.

    Here and wherever an address is counted, an IPv6 address counts as its network of 64 bits. An office or a
    carrier has thousands of clients behind one address; a machine that takes all of its ports has 28,000, and
    would leave nobody else a place. Behind a proxy set ``trusted_proxies``."""
    connections_per_user: Annotated[int, msgspec.Meta(ge=0)] = 1000
    """0 is no limit; with ``--dev`` 0.

    A person has some tabs and devices, a service some hundred workers; a page that connects in a loop, or a
    stolen token, has no end."""
    connections_per_organisation: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0 is no limit: an organisation may be all there is. Set it where there are several."""
    head_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**20)] = 16384
    """Largest request line with headers; a larger one gets HTTP 431. Tokens in headers and addresses must
    fit."""
    head_timeout: Seconds = 10.0
    """Deadline for a whole request head."""
    body_bytes: Bytes = 2**20
    """Largest REST body; no larger than ``message_bytes``, which is what clients are told to expect."""
    body_timeout: Seconds = 30.0
    """Deadline for a whole REST body."""
    keep_alive: Seconds = 75.0
    """How long an HTTP connection may stay idle, and how long the head of a later request may take.

    Longer than a proxy in front keeps idle connections (nginx: 60 s), or a request that it sends on one meets
    the close and is lost."""
    send_timeout: Seconds = 30.0
    """How long a peer may take for 64 KiB of an HTTP answer."""
    batch: Count = 100
    """Operations in one REST batch."""


Rate = Annotated[float, msgspec.Meta(ge=0)]


class RateSettings(Group, frozen=True):
    """Token buckets, in units per second; 0 is no limit. Over one: error 300 or HTTP 429.

    Commands, bytes and joins have none by default: organisations take turns, so that what one sends costs the
    others little, and the right number is another for each service.
    """

    burst: Seconds = 5.0
    """A full bucket holds this many seconds' worth."""
    commands_per_connection: Rate = 0.0
    """Commands of one connection."""
    commands_per_user: Rate = 0.0
    """Commands of all connections and REST requests of one user."""
    commands_per_organisation: Rate = 0.0
    """Commands of everything in one organisation."""
    commands_per_ip: Rate = 0.0
    """Commands from one address, behind which there may be many users."""
    bytes_per_connection: Rate = 0.0
    """Bytes of messages of one connection."""
    bytes_per_user: Rate = 0.0
    """Bytes of messages and bodies of one user."""
    bytes_per_organisation: Rate = 0.0
    """Bytes of everything in one organisation."""
    bytes_per_ip: Rate = 0.0
    """Bytes from one address."""
    joins_per_connection: Rate = 0.0
    """Joins of one connection. A join may read history, so it costs more than other commands."""
    joins_per_user: Rate = 0.0
    """Joins of one user."""
    joins_per_organisation: Rate = 0.0
    """Joins of one organisation."""
    joins_per_ip: Rate = 0.0
    """Joins from one address."""
    connections_per_user: Rate = 200.0
    """New connections, as the next two; how many may be open at once is in ``limits``. With ``--dev`` 0.

    All of ``limits.connections_per_user`` may come back at once after an outage (``burst`` seconds' worth),
    and a client that is refused in a loop is slowed down."""
    connections_per_organisation: Rate = 0.0
    """New connections of one organisation."""
    connections_per_ip: Rate = 1000.0
    """With ``--dev`` 0.

    A node takes some thousand new connections a second; one address, behind which there may be an office or a
    carrier, gets a part of them."""
    failed_logins_per_ip: Rate = 20.0
    """Tokens from one address that do not verify. Above it the address is refused until the bucket has filled
    again."""
    abuse_after: Count = 500
    """Commands that come sooner than ``retry_after`` said, without a pause of a second, after which the
    connection is closed with 4501."""


class OverloadSettings(Group, frozen=True):
    """When the gateway sheds load; 0: never."""

    loop_lag: Rate = 2.0
    """Largest event loop lag, in seconds."""
    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Resident memory of the process; 0 leaves it to ``memory_share``."""
    memory_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.75
    """The same as a part of the memory that the machine or the control group has, divided by ``workers``.

    Every cache, queue and history has its own bound; where their sum is more than the machine has, refusing
    new connections is better than being killed with all of them."""
    retry_after: Seconds = 5.0
    """Hint to clients that are refused meanwhile. Too short, and their retries are part of the overload."""


class SuspicionSettings(Group, frozen=True):
    """What one address may do in a ``window`` of seconds before it is reported; 0 is anything."""

    window: Seconds = 60.0
    """Length of the window that the next three are counted in."""
    failed_logins: Annotated[int, msgspec.Meta(ge=0)] = 100
    """Tokens that do not verify."""
    connections: Annotated[int, msgspec.Meta(ge=0)] = 0
    """New connections. Unlimited by default: a carrier's address has thousands."""
    refused_joins: Annotated[int, msgspec.Meta(ge=0)] = 500
    """Joins that are refused for lack of permission: somebody tries names of rooms."""
    ban: Rate = 0.0
    """Seconds for which a reported address is refused; 0 only reports."""


class TraceSettings(Group, frozen=True):
    """Message traces, recipient by recipient (``GET /api/v1/messages/{mid}/trace``)."""

    messages: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Messages remembered; 0 switches tracing off."""
    sample: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Share of the messages that are traced."""
    recipients: Count = 1000
    """Connections recorded for one message."""
    records: Count = 100_000
    """Connections recorded for all messages together; the oldest message goes first."""


class ConnectionSettings(Group, frozen=True):
    """The life of one connection, all in seconds."""

    heartbeat: Seconds = 30.0
    """Interval of pings; a peer that is silent for two of them is disconnected."""
    poll_grace: Seconds = 10.0
    """How long after a poll's time-out a user who has not polled again is still in their rooms."""
    inactivity: SecondsOrNone = 0.0
    """Close a connection that sent no command for this long; 0 is never."""
    typing_timeout: Seconds = 5.0
    """A user who says nothing more counts as typing for this long. Clients repeat it while keys are
    pressed."""
    expiry_notice: SecondsOrNone = 30.0
    """Seconds before its token expires that a client is told; 0: never."""
    resume_ttl: Seconds = 300.0
    """How long a resume token is valid after its connection has ended."""
    close_timeout: Seconds = 2.0
    """How long the peer has to answer a Close frame."""
    command_timeout: Seconds = 10.0
    """How long one command may wait for the broker or a handler."""


class DrainSettings(Group, frozen=True):
    """How clients leave after SIGTERM."""

    delay: SecondsOrNone = 0.0
    """Seconds from ``/readyz`` turning 503 to the first client leaving, for load balancers to notice."""
    pace: Rate = 500.0
    """Clients asked to leave per second; 0 is all at once."""
    timeout: Seconds = 15.0
    """Seconds within which the last one is asked; more clients than ``pace`` allows then leave faster."""


class RedisSettings(Group, frozen=True):
    """How a node uses Redis; ignored by the memory broker. Times are in seconds."""

    prefix: str = "trireme"
    """Key prefix; use different prefixes to isolate gateways that share a Redis."""
    ca_file: str = ""
    """PEM file with the certificate authorities for a ``rediss`` server; empty: those of the system."""
    timeout: Seconds = 5.0
    """A connection without an answer for this long is broken; its pending publishes fail."""
    patience: Seconds = 1.0
    """When Redis is unavailable for longer than this, publishes are refused at once instead of waiting."""
    retry_after: Seconds = 1.0
    """Hint to clients whose command was refused because Redis is unavailable."""
    max_backoff: Seconds = 2.0
    """Longest pause between two attempts to connect."""
    heartbeat: Seconds = 2.0
    """A connection that is silent for this long is pinged."""
    sweep: Seconds = 10.0
    """Each joined room's position is compared with Redis this often, in case a message was lost unseen."""
    pending: Count = 20_000
    """Publishes of this node that wait for their place; further ones are refused with 301."""
    pending_bytes: Bytes = 64 * 2**20
    """Bytes of these publishes; further ones are refused with 301. It bounds memory while Redis is slow."""
    batch: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 256
    """Events in one entry of a room's stream."""
    batch_bytes: Bytes = 256 * 1024
    """Bytes of these events. Larger batches save round trips and delay the other rooms behind them."""
    inbox_bytes: Bytes = 8 * 2**20
    """Undelivered events that are held in memory; then nothing more is read until they are delivered."""
    tail: Count = 4096
    """Events that each room's stream keeps at least, within the bytes and the age of its history: nodes that
    were cut off read from it what they missed."""
    window: Count = 1024
    """Message ids that each room remembers to recognise what is published twice."""
    forget: Seconds = 86400.0
    """The order of a room that is not used is forgotten after this; its events go after ``history.age``."""
    linger: Seconds = 5.0
    """A room without local members stays subscribed for this long."""


class RoomHistory(Group, frozen=True, omit_defaults=True):
    """What is kept of the rooms of one pattern; what is absent is as in ``history``."""

    messages: HistoryMessages | None = None
    """Events."""
    bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Bytes of the events' data and names."""
    age: Seconds | None = None
    """Age of the oldest event."""


class UserHistory(Group, frozen=True, omit_defaults=True):
    """What is kept of what is sent to one user, who may be away for a day."""

    messages: HistoryMessages = 256
    """Events."""
    bytes: Annotated[int, msgspec.Meta(ge=0)] = 2**20
    """Bytes of the events' data and names."""
    age: Seconds = 86400.0
    """Age of the oldest event."""


class RoomEvents(Group, frozen=True, omit_defaults=True):
    """One ``[events.patterns."PATTERN"]``: what is published to rooms whose name matches is checked."""

    types: list[str] = []
    """Names or patterns of events; empty: every one. Data of those with a type must fit it (103, 104)."""
    strict: bool = False
    """Refuse (107) events that ``types`` does not name, and those without a type."""


class EventSettings(Group, frozen=True):
    """Which events rooms take (``docs/events.md``); nothing is checked where no pattern says so."""

    patterns: dict[str, RoomEvents] = {}
    """Room pattern → what is checked in its rooms; the first pattern that fits counts.

    Rooms of executions are not checked."""


class SupervisorSettings(Group, frozen=True):
    """How ``--workers`` above 1 watches over its processes."""

    restarts: Count = 10
    """Workers that may die within ``window`` seconds; one more, and the supervisor exits with code 3."""
    window: Seconds = 60.0
    """Length of the window that deaths are counted in."""
    backoff: Seconds = 0.5
    """Seconds before a worker is started again; twice as long for each that died within ``window``."""
    backoff_maximum: Seconds = 15.0
    """Longest pause before a worker is started again."""
    start_timeout: Seconds = 30.0
    """A worker that does not listen by then is killed, and counts as dead."""
    silence: Annotated[float, msgspec.Meta(ge=2)] = 5.0
    """Seconds without a sign of life, due every second, after which a worker is killed and replaced."""


class HistorySettings(Group, frozen=True):
    """What is kept of each room; the oldest event goes when one of the three bounds is passed."""

    messages: HistoryMessages = 256
    """Events kept of each room; 0 keeps none. A client that comes back can get this many."""
    bytes: Annotated[int, msgspec.Meta(ge=0)] = 2**20
    """Bytes of events kept of each room. It keeps a room of large events from taking the memory of many."""
    age: Seconds = 300.0
    """Age at which an event goes. Longer than clients are usually away."""
    patterns: dict[str, RoomHistory] = {}
    """Room pattern → other bounds for its rooms; the first pattern that fits counts."""
    organisation: RoomHistory = RoomHistory()
    """Of what is published to a whole organisation."""
    user: UserHistory = UserHistory()
    """Of what is sent to one user."""
    total_bytes: Bytes = 512 * 2**20
    """Of all rooms, organisations and users together. In memory the organisation that keeps most gives way:
    its rooms without a member first, then its oldest events. With Redis an organisation that keeps three
    quarters of it, or more than an even part when all is used, is refused with 301; its resume notes there
    may take a 32nd part."""
    rooms: Count = 100_000
    """Rooms kept without a member (memory broker); the longest unused of the organisation with most goes.
    With Redis rooms that keep events, shared as ``total_bytes``. Users are not counted here, but what
    their orders take is counted in ``total_bytes``: 2 kB for a user with one small message in memory, 1.2 kB
    in Redis."""
    page: Count = 256
    """Events in one page of ``history``."""


class ClusterSettings(Group, frozen=True):
    """How nodes that share a Redis act as one; ignored by a single node.

    Times are in seconds.
    """

    lease: Annotated[float, msgspec.Meta(ge=0.5, le=300)] = 10.0
    """Maximum seconds a dead node's users stay in presence."""
    answer_timeout: Seconds = 2.0
    """How long other nodes may take to answer a request."""
    pending: Count = 10_000
    """Requests that wait for answers, and answers that wait to be sent; more are refused with 301."""
    answer_bytes: Bytes = 8 * 2**20
    """Largest answer of one node."""


class StoreSettings(Group, frozen=True):
    """How the database of ``database`` is used. Times are in seconds where nothing else is said."""

    notifications_keep: Annotated[float, msgspec.Meta(gt=0, le=36500)] = 30.0
    """Days after which a notification is removed, read or not."""
    approvals_keep: Annotated[float, msgspec.Meta(gt=0, le=36500)] = 30.0
    """Days after its decision that an approval is removed."""
    approvals_longest: Annotated[float, msgspec.Meta(gt=0, le=31_536_000)] = 30 * 86400.0
    """Largest deadline of an approval, and that of one without a deadline."""
    approvals_open: Count = 1000
    """Open approvals of one organisation; one more is refused with 405."""
    approvals_open_bytes: Bytes = 8 * 2**20
    """What the open approvals of one organisation may take together."""
    approvals_reach: Count = 1000
    """Users of a role who are told of one approval."""
    approvals_waiting: Count = 1000
    """Requests of one node that wait for a decision, a quarter of them for one organisation; more: 301."""
    pool: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Connections, and threads, that read; one more writes."""
    timeout: Seconds = 5.0
    """How long one operation may wait for the database."""
    retry_after: Seconds = 1.0
    """Hint to clients whose request was refused because the database is unavailable."""
    lease: Annotated[float, msgspec.Meta(ge=0.5, le=3600)] = 10.0
    """How long a node has to deliver what it has committed, before another one may deliver it."""
    sweep: Seconds = 60.0
    """Old and expired rows are removed this often, by one of the nodes."""
    group: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200
    """Rows written in one commit."""
    pending: Count = 10_000
    """Writes that wait for their commit; further ones are refused with 301."""
    pending_bytes: Bytes = 64 * 2**20
    """Bytes of these writes; further ones are refused with 301. It bounds memory while the database is
    slow."""
    pending_reads: Count = 1000
    """Reads that wait for a connection; further ones are refused with 301."""
    unread_maximum: Count = 1000
    """Unread notifications of a user are counted up to this."""
    strict: bool = False
    """Whether ``/readyz`` answers 503 while the database is unavailable."""


class ExecutionSettings(Group, frozen=True):
    """Executions (``docs/executions.md``). No bound in bytes counts above a sixteenth of
    ``limits.message_bytes``, so that an event can carry the whole execution."""

    vocabularies: list[Literal["a", "c"]] = []
    """Further events to the organisation: ``a`` ``agent:execution:start`` and so on, ``c``
    ``agent_execution_started``, ``councilor_started`` and so on."""
    stale: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 3600.0
    """Seconds without a word of its reporter after which an execution is ended with the error ``stale``. 0:
    never."""
    keep: Annotated[int, msgspec.Meta(ge=1, le=36500)] = 90
    """Days (UTC) after which an execution is removed, with what summaries know of it."""
    input_bytes: Bytes = 16 * 1024
    """Bytes of JSON. Every event of an execution carries the input, so it is small."""
    result_bytes: Bytes = 64 * 1024
    """Bytes of JSON. What is larger belongs into a store of its own, with its address in the result."""
    metadata_bytes: Bytes = 4096
    """Bytes of JSON of the ``metadata``, which every event carries."""
    tools_bytes: Bytes = 4096
    """Bytes of JSON of the list of ``tools``, which every event carries."""
    error_bytes: Bytes = 4096
    """Bytes of the ``error``. A longer stack trace belongs into a log."""
    updates_bytes: Bytes = 64 * 1024
    """Bytes of the timeline of one execution, some 500 updates; the oldest go first."""


class TlsSettings(Group, frozen=True):
    """Certificate chain and key as PEM files; both or none."""

    certificate: str = ""
    """Certificate chain. Leave both empty where a proxy in front ends TLS."""
    key: str = ""
    """Private key of the certificate, without a password."""


class LogSettings(Group, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged. ``debug`` has a line for each connection."""
    format: Literal["auto", "human", "json"] = "auto"
    """``auto``: human on a terminal, JSON otherwise."""


class Settings(Group, frozen=True):
    """The whole configuration of one gateway process."""

    host: str = "127.0.0.1"
    """Address to listen on. The default is reachable from this machine only; ``0.0.0.0`` or ``::`` listens
    everywhere."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    """Port of everything: WebSocket, REST, pages, metrics. 0 takes a free one."""
    broker: str = "memory"
    """Where rooms have their order and history: ``memory``, or an address of Redis or Valkey that several
    processes share (``redis://HOST:6379``, ``rediss://``, ``redis+unix://``, ``redis+sentinel://``,
    ``redis+cluster://``)."""
    database: str = "sqlite:///data/gateway.db"
    """Where notifications and executions are kept; ``none``: there are none."""
    workers: Count = 1
    """Processes that share the port; more than one need a broker that joins them."""
    own_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """A second port, for one worker alone: the first worker's, the next ones' follow. 0 is none.

    What is asked on the shared port (``/metrics``) is answered by any of them.
    """
    dev: bool = False
    """Development mode: a generated signing key, wider limits by address and user, a token on the terminal.
    Never in production: whoever reads the terminal or ``data_dir`` can sign tokens."""
    data_dir: str = "data"
    """Where development mode keeps its generated key."""
    node: str = ""
    """Name of this node in ``connected`` and stats; generated when empty."""
    extensions: list[str] = []
    """Python modules whose ``setup(gateway)`` is called before the start: handlers of ``call``."""
    allowed_origins: list[str] = []
    """Origins that browsers may connect from (``https://app.example.com``); empty allows every one."""
    trusted_proxies: list[str] = []
    """Addresses and networks of proxies whose ``X-Forwarded-For`` is believed, for limits by address."""
    shutdown_timeout: Seconds = 10.0
    """How long flushing and closing may take after the last client was asked to leave."""
    retry_after: Seconds = 1.0
    """Clients that leave at shutdown are told to wait this long to twice as long, each another time."""
    auth: AuthSettings = AuthSettings()
    calls: dict[str, CallSettings] = {}
    """Backends that answer calls, by a pattern of the call's name (``docs/calls.md``)."""
    weights: dict[str, Annotated[int, msgspec.Meta(ge=1, le=100)]] = {}
    """Organisation → its share of reading and writing under load; 1 where none is given."""
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
