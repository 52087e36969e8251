"""Channels to the members, and which one to use now.

One channel per endpoint, kept open. A call goes to the member that answered last; when that one fails, to whichever
is connected first. Whether a member may be used is known from its channel's state, never from a probe with a timer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import grpc
from minicommon.errors import InvalidArgumentError, UnavailableError
from minicommon.settings import EtcdSettings

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", -1),  # a page of a list is limited by its number of keys
    ("grpc.max_send_message_length", -1),  # limited by Limits, before sending
    ("grpc.keepalive_time_ms", 10_000),  # etcd refuses pings more often than every 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # a member that is back is used within a second
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # two stores of one process share no broken connection
)


_HEAD_START: Final = 0.5
"""Seconds that members which have not failed get to connect, before those that have are tried again."""


@dataclass(frozen=True, slots=True)
class Member:
    url: str
    channel: grpc.aio.Channel


class Endpoints:
    """The members of one cluster, from settings. Raises InvalidArgumentError for an endpoint that is no URL."""

    def __init__(self, settings: EtcdSettings) -> None:
        if not settings.endpoints:
            raise InvalidArgumentError("etcd endpoints: at least one is needed")
        self._members = [_open(url, settings) for url in settings.endpoints]
        self._preferred = self._members[0]
        self._suspects: set[str] = set()

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(self._members)

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(member.url for member in self._members)

    async def connected(self) -> Member:
        """A member whose connection stands; waits, without an end, until there is one."""
        ready = self._preferred.channel.get_state() is grpc.ChannelConnectivity.READY
        if not ready or self._preferred.url in self._suspects:
            self._preferred = await self._first_ready()
        return self._preferred

    async def connected_within(self, timeout: float) -> Member:
        """As `connected`, for at most `timeout` seconds. Raises UnavailableError, naming the endpoints."""
        try:
            async with asyncio.timeout(timeout):
                return await self.connected()
        except TimeoutError as error:
            raise UnavailableError(
                f"no etcd member could be reached within {timeout:g} s: {', '.join(self.urls)}"
            ) from error

    def failed(self, member: Member) -> None:
        """The member did not answer: prefer another one, even if this one's connection stands."""
        self._suspects.add(member.url)

    async def close(self) -> None:
        for member in self._members:
            await member.channel.close()

    async def _first_ready(self) -> Member:
        """The first member that is connected; those that failed get no chance before the others had one."""
        racing = {
            asyncio.create_task(_ready(member), name=f"connect {member.url}"): member
            for member in self._members
        }
        fresh = [task for task, member in racing.items() if member.url not in self._suspects]
        try:
            done: set[asyncio.Task[Member]] = set()
            if fresh:
                done, _ = await asyncio.wait(
                    fresh,
                    return_when=asyncio.FIRST_COMPLETED,
                    timeout=_HEAD_START if self._suspects else None,
                )
            if not done:
                done, _ = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
            chosen = next(task for task in racing if task in done).result()
        finally:
            for task in racing:
                task.cancel()
            await asyncio.gather(*racing, return_exceptions=True)
        self._suspects.discard(chosen.url)
        return chosen


async def _ready(member: Member) -> Member:
    while (state := member.channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        await member.channel.wait_for_state_change(state)
    return member


def _open(url: str, settings: EtcdSettings) -> Member:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.port:
        raise InvalidArgumentError(f"etcd endpoint: must be http(s)://host:port, got {url!r}")
    if parts.scheme == "http":
        return Member(url, grpc.aio.insecure_channel(parts.netloc, options=_OPTIONS))
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_pem(settings.ca),
        private_key=_pem(settings.key),
        certificate_chain=_pem(settings.certificate),
    )
    return Member(url, grpc.aio.secure_channel(parts.netloc, credentials, options=_OPTIONS))


def _pem(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None
