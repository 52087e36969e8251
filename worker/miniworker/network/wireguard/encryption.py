"""Keeps the WireGuard interface equal to the fabric and the node's keys.

The interface itself is part of the plan. Where the kernel cannot encrypt, `wireguard-go` reads it; whoever supervises
that program starts it once it is wanted, and its socket tells here that it lives. A new process knows nothing.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from minicommon.clock import MILLISECOND, SECOND, Clock
from minicommon.log import fields

from miniworker.network import rtnetlink
from miniworker.network.api import Announced, Difference, Fabric
from miniworker.network.apply import index_of
from miniworker.network.errors import NetworkError
from miniworker.network.names import CARRIER
from miniworker.network.plan import carrier_mtu
from miniworker.network.wireguard import kernel, uapi
from miniworker.network.wireguard.keys import KeyFile, KeyRing, make_pair
from miniworker.network.wireguard.settings import (
    Change,
    Settings,
    change_of,
    settings_in_words,
    wanted_settings,
)

logger = logging.getLogger(__name__)

WIREGUARD_PORT = 51820
"""UDP, on every node (WireGuard's customary port)."""

PROGRAM = "wireguard-go"

START_NS = 5 * SECOND
"""How long the program may take to listen on its socket; here it takes some 20 ms."""

_RETRY_NS = 50 * MILLISECOND

CANNOT = (
    "this node cannot encrypt: its kernel has no WireGuard, and there is no "
    f"{PROGRAM} (Debian package {PROGRAM}) or no /dev/net/tun for it"
)


class Engine(Protocol):
    """Who encrypts."""

    @property
    def kind(self) -> str:
        """Of the interface: "wireguard" or "tun"."""

    def read(self) -> Settings:
        """Raises NetworkError."""

    def apply(self, change: Change, *, port: int) -> None:
        """Raises NetworkError."""


class KernelEngine:
    kind = "wireguard"

    def read(self) -> Settings:
        return kernel.read_settings()

    def apply(self, change: Change, *, port: int) -> None:
        kernel.apply_change(change, port=port)


class ProgramEngine:
    kind = "tun"

    def read(self) -> Settings:
        return uapi.read_settings()

    def apply(self, change: Change, *, port: int) -> None:
        uapi.apply_change(change, port=port)


def choose_engine() -> Engine | None:
    """The kernel when it can, else the program; None: neither is there."""
    if kernel.kernel_encrypts():
        return KernelEngine()
    if shutil.which(PROGRAM) and Path("/dev/net/tun").exists():
        return ProgramEngine()
    return None


class Encryption:
    """`keys`: the node's; made with its first use."""

    def __init__(
        self,
        keys: KeyFile,
        *,
        clock: Clock,
        port: int = WIREGUARD_PORT,
        choose: Callable[[], Engine | None] = choose_engine,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._port = port
        self._choose = choose
        self._engine: Engine | None = None
        self._ring: KeyRing | None = None
        self._fabric: Fabric | None = None
        self._opening = asyncio.Lock()
        self._setting = asyncio.Lock()
        self._lives = asyncio.Event()
        self._program_wanted = asyncio.Event()
        """Set while there is an interface for the program to read."""
        self._program_unwanted = asyncio.Event()
        self._program_unwanted.set()

    async def open(self) -> Engine | None:
        """Who encrypts here; None: nobody can. Raises NetworkError."""
        async with self._opening:
            if self._ring is None:
                self._engine = await asyncio.to_thread(self._choose)
                self._ring = await asyncio.to_thread(self._keys.read, now_ns=self._clock.now_ns())
            return self._engine

    async def announced(self) -> Announced:
        """The keys that the others are to know. Raises NetworkError."""
        if await self.open() is None:
            return Announced()
        assert self._ring is not None, "it was opened"
        return self._ring.announced

    async def rotate(self) -> Announced:
        """Make a new next key, and announce the one that was next as the current one.

        Nothing changes in the interface before the cluster has heard of it. Raises NetworkError.
        """
        await self.open()
        assert self._ring is not None, "it was opened"
        ring = self._ring.rotated(make_pair(self._clock.now_ns()))
        self._ring = await asyncio.to_thread(self._keys.write, ring)
        return await self.announced()

    async def due_at_ns(self, period_ns: int) -> int:
        """When the keys are to be rotated. Raises NetworkError."""
        await self.open()
        assert self._ring is not None, "it was opened"
        return self._ring.due_at_ns(period_ns)

    async def follow(self, fabric: Fabric) -> None:
        """Give the interface, which is there if the fabric has encrypted networks, its keys and peers.

        Raises NetworkError.
        """
        if self._engine is None or not any(network.encrypted for network in fabric.networks):
            self._fabric = None
            self._want_program(wanted=False)
            return
        self._fabric = fabric
        if isinstance(self._engine, KernelEngine):
            await self._set()
            return
        self._want_program(wanted=True)
        timer = asyncio.ensure_future(self._clock.sleep_until(self._clock.now_ns() + START_NS))
        living = asyncio.ensure_future(self._lives.wait())
        try:
            await asyncio.wait({timer, living}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            living.cancel()
        if not self._lives.is_set():
            raise NetworkError(f"{PROGRAM} does not run: nothing listens at {uapi.SOCKET}")
        await self._set()

    async def differences(self) -> tuple[Difference, ...]:
        """In what the interface is not as planned."""
        wanted = self._wanted()
        if wanted is None:
            return ()
        assert self._engine is not None, "there is a plan"
        try:
            found = await asyncio.to_thread(self._engine.read)
        except NetworkError:
            what = PROGRAM if isinstance(self._engine, ProgramEngine) else CARRIER
            return (Difference("encryption", "", what, missing=True),)
        return tuple(settings_in_words(found, wanted))

    async def mend(self) -> None:
        """Make it equal to the plan. Raises NetworkError."""
        if self._fabric is not None:
            await self.follow(self._fabric)

    async def watch(self) -> None:
        """Give each new process of the program its settings; never returns."""
        if not isinstance(await self.open(), ProgramEngine):
            await asyncio.Event().wait()
        while True:
            await self.wait_program(wanted=True)
            try:
                await self._hold()
            except (OSError, NetworkError) as error:
                logger.debug("The program for encryption is not there yet.", extra=fields(error=error))
            self._lives.clear()
            await self._clock.sleep_until(self._clock.now_ns() + _RETRY_NS)

    def forget(self) -> None:
        """The node leaves; its keys went with its membership."""
        self._fabric, self._ring, self._engine = None, None, None
        self._want_program(wanted=False)

    async def wait_program(self, *, wanted: bool) -> None:
        """Return once there is an interface for the program to read, or none."""
        await (self._program_wanted if wanted else self._program_unwanted).wait()

    def _want_program(self, *, wanted: bool) -> None:
        now, then = self._program_wanted, self._program_unwanted
        (now if wanted else then).set()
        (then if wanted else now).clear()

    async def _hold(self) -> None:
        """From the moment when the program listens to the one when it has ended. Raises OSError, NetworkError."""
        reader, writer = await asyncio.open_unix_connection(str(uapi.SOCKET))
        try:
            await self._set()
            self._lives.set()
            await reader.read()
        finally:
            writer.close()

    async def _set(self) -> None:
        async with self._setting:
            wanted = self._wanted()
            if wanted is not None and self._engine is not None and self._fabric is not None:
                await asyncio.to_thread(_lead, self._engine, wanted, carrier_mtu(self._fabric))

    def _wanted(self) -> Settings | None:
        if self._fabric is None or self._ring is None:
            return None
        return wanted_settings(self._fabric, self._ring, port=self._port)


def _lead(engine: Engine, wanted: Settings, mtu: int) -> None:
    rtnetlink.send([rtnetlink.set_mtu(index_of(CARRIER), mtu)])  # the program begins with its own default
    if change := change_of(engine.read(), wanted):
        engine.apply(change, port=wanted.port)
