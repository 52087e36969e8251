"""Options of channels and servers. Both ends of a connection are ours, so the two sets fit together."""

from __future__ import annotations

from typing import Final

Options = tuple[tuple[str, int | str], ...]

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""The first set of assignments of a node is the largest message: 100,000 endpoints take about 10 MB."""

KEEPALIVE_MS: Final = 10_000
"""How often an idle connection is probed: soon enough that NAT keeps it, and that a dead host is noticed."""

KEEPALIVE_TIMEOUT_MS: Final = 5_000
"""How long a probe may stay unanswered before the connection counts as dead."""

CONNECT_MS: Final = 2_000
"""How long one attempt may take, TLS included: a busy machine takes more than the pause between two."""

RECONNECT_MS: Final = 100
LONGEST_RECONNECT_MS: Final = 2_000
"""Pauses between attempts to connect; gRPC's own begin at 1 s and grow to 120 s, far too long for a failover."""

_BOTH: Final[Options] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

CLIENT: Final[Options] = (
    *_BOTH,
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.min_reconnect_backoff_ms", CONNECT_MS),  # in spite of its name gRPC's limit of an attempt
    ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MS),
    ("grpc.enable_http_proxy", 0),  # managers are reached directly, whatever http_proxy says
)

SERVER: Final[Options] = (
    *_BOTH,
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls by chance
)
