"""What a command is given: where to print, the environment, the time, and a channel to the daemon when it asks."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TextIO

    from minictl.client.channel import Channel


class Context:
    """One invocation. `connect` makes the channel; tests pass their own."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        connect: Callable[[], Channel],
        local: bool = True,
        out: TextIO | None = None,
        err: TextIO | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.environment = environment
        self.out = sys.stdout if out is None else out
        self.err = sys.stderr if err is None else err
        self.now_ns = now_ns
        self.local = local
        """Whether the daemon is this node's own, over its socket."""
        self._connect = connect
        self._channel: Channel | None = None

    @property
    def channel(self) -> Channel:
        if self._channel is None:
            self._channel = self._connect()
        return self._channel

    def new_channel(self) -> Channel:
        """Another one, for a thread of its own; the caller closes it."""
        return self._connect()

    def call(self, method: str, request: Any, *, timeout: float | None = 60.0) -> Any:
        """A unary call; see `Channel`."""
        return self.channel.unary(method, request, timeout=timeout)

    def print(self, text: str = "") -> None:
        self.out.write(text + "\n")

    def warn(self, text: str) -> None:
        """Print to standard error, after what has been printed so far."""
        self.out.flush()
        self.err.write(text + "\n")
        self.err.flush()

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
