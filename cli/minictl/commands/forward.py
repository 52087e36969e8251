"""`minictl port-forward`: local ports whose connections end in a container.

Each connection is a call of its own on a connection of its own to the daemon, in a thread of its own: a slow one holds
up no other.
"""

from __future__ import annotations

import select
import socket
import threading

from minicommon.errors import DeadlineError, MiniError

from minictl.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minictl.client.channel import Duplex
    from minictl.context import Context
    from minictl.flags import Parsed

BLOCK = 64 << 10
"""Bytes in one message."""

_POLL_SECONDS = 0.001


def port_forward(context: Context, parsed: Parsed) -> int:
    """Until interrupted."""
    from minictl.client import messages

    ref, *pairs = parsed.arguments
    info = context.call("Containers/Inspect", messages.InspectContainerRequest(ref=ref)).info
    if info.status != "running":
        raise CliError(f"container {ref} is not running")
    listeners: dict[socket.socket, int] = {}
    try:
        for pair in pairs:
            local, port = _ports(pair)
            listener = _listen(parsed["address"], local)
            listeners[listener] = port
            host, number = listener.getsockname()[:2]
            context.print(f"Forwarding from {host}:{number} -> {port}")
        context.out.flush()
        _accept(context, info.id, listeners)
    except KeyboardInterrupt:
        return 0
    finally:
        for listener in listeners:
            listener.close()
    return 0


def _ports(text: str) -> tuple[int, int]:
    """`8080:80`, `80`, `:80` (any local port). Raises CliError."""
    local, colon, port = text.rpartition(":")
    numbers = [0 if colon and not local else local or port, port]
    try:
        found = [int(number) for number in numbers]
    except ValueError:
        found = [-1, -1]
    if not (0 <= found[0] < 1 << 16 and 0 < found[1] < 1 << 16):
        raise CliError(f"invalid port {text}: must be [LOCAL_PORT:]PORT, each from 1 to 65535")
    return found[0], found[1]


def _listen(address: str, port: int) -> socket.socket:
    try:
        return socket.create_server((address, port))
    except OSError as error:
        raise CliError(f"cannot listen on {address}:{port}: {error.strerror or error}") from error


def _accept(context: Context, container_id: str, listeners: dict[socket.socket, int]) -> None:
    while True:
        ready, _, _ = select.select(list(listeners), [], [])
        for listener in ready:
            client, _ = listener.accept()
            arguments = (context, client, container_id, listeners[listener])
            threading.Thread(target=_serve, args=arguments, daemon=True).start()


def _serve(context: Context, client: socket.socket, container_id: str, port: int) -> None:
    from minictl.client import messages

    channel = context.new_channel()
    try:
        call = channel.duplex("Containers/Forward")
        call.send(messages.ForwardInput(start=messages.ForwardStart(ref=container_id, port=port)))
        _pass_on(call, client)
    except (MiniError, OSError) as error:
        context.warn(f"connection to port {port}: {error}")
    finally:
        client.close()
        channel.close()


def _pass_on(call: Duplex, client: socket.socket) -> None:
    """Both ways, until the container's side has ended."""
    from minictl.client import messages

    sources: list[Any] = [call.fileno(), client]
    while True:
        while True:
            try:
                response = call.receive(_POLL_SECONDS)
            except DeadlineError:
                break
            if response is None:
                return
            if response.HasField("data"):
                client.sendall(response.data)
        ready, _, _ = select.select(sources, [], [])
        if client in ready:
            data = client.recv(BLOCK)
            message = messages.StreamInput(data=data) if data else messages.StreamInput(end=True)
            call.send(messages.ForwardInput(input=message))
            if not data:
                sources.remove(client)
