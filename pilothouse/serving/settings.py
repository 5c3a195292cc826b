"""Limits and time-outs of the front door. Everything has a maximum here, with a default."""

import msgspec

from pilothouse.live.upstream import UpstreamLimits


class ConnectorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How prefill engines hand KV over."""

    kind: str  # a name in `wire/transfer/table.py`
    lease_us: int = 30_000_000  # how long they keep it for whoever may claim it
    port: int | None = None  # of their bootstrap server; None = the usual one


class FrontSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients may do, and for how long."""

    connections_max: int = 8192  # open client connections; one more is answered 503 and closed
    head_bytes_max: int = 32_768  # request line and headers of one request
    target_bytes_max: int = 8_192  # path and query
    headers_max: int = 100  # header lines of one request
    body_bytes_max: int = 32 << 20  # one request body
    bodies_bytes_max: int = 1 << 30  # bodies still being received, all connections together
    pipelined_bytes_max: int = 65_536  # read ahead of the request being served; beyond it reading stops
    write_buffer_bytes: int = 65_536  # unsent bytes at which the engine of a slow client is no longer read
    head_timeout_us: int = 15_000_000  # first byte of a head to its end
    body_timeout_us: int = 30_000_000  # without progress of a request body
    body_total_timeout_us: int = 300_000_000  # a whole request body
    idle_timeout_us: int = 75_000_000  # between requests of one connection
    stall_timeout_us: int = 60_000_000  # a client that takes no byte of its answer
    linger_us: int = 2_000_000  # reading on after a refusal, so that the client sees the answer and not a reset
    linger_bytes_max: int = 1 << 20  # bytes discarded in that time
    timer_tick_us: int = 100_000  # resolution of all time-outs
    serve_half_closed: bool = False  # True: finish the answer for a client that shut its sending side only
    client_keys: frozenset[str] = frozenset()  # accepted API keys; empty = no authentication
    described_bytes_max: int = 4 << 20  # a longer body is routed by its size: describing it would hold up everybody
    described_messages_max: int = 4096  # likewise
    session_field: bytes = b"x-session-id"  # header that names a conversation, in lower case
    grants: frozenset[str] = frozenset()  # body fields and paths that are refused unless named here
    stored_responses_max: int = 65_536  # remembered response id -> endpoint
    upstream: UpstreamLimits = UpstreamLimits()
    connectors: dict[str, ConnectorSettings] = {}  # URL of a prefill engine, or type for those found by name ->
    salted_splits: bool = True  # all of them keep prompts of different `cache_salt` apart

    def is_huge(self, length: int, messages: object) -> bool:
        """Whether describing the prompt of such a body would hold up everybody else."""
        many = isinstance(messages, list) and len(messages) > self.described_messages_max
        return many or length > self.described_bytes_max

    def connector(self, url: str, kind: str) -> ConnectorSettings:
        """Of the prefill engine at this URL."""
        return self.connectors.get(url) or self.connectors[kind]
