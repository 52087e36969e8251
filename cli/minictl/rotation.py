"""Waiting for a change of the cluster's root or of its encryption key, with progress."""

from __future__ import annotations

from minictl.errors import CliError, FailedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from miniproto.v1.security_pb2 import RootInfo

    from minictl.context import Context


def wait_root(context: Context, *, quiet: bool) -> None:
    """Return when the rotation is over. Raises FailedError when the user does not want to wait: it goes on."""
    from minictl.client import messages

    shown: tuple[str, ...] = ()
    wanted = ""
    context.out.flush()
    try:
        for info in _told(context, "RootAuthority/Watch", messages.GetRootRequest()):
            wanted = wanted or info.next_digest or info.digest
            lines = tuple(root_lines(info, wanted))
            if not quiet and lines != shown:
                shown = lines
                context.print("\n".join(lines))
            if not info.rotating and info.trusting >= info.nodes and info.certificates >= info.nodes:
                return
    except KeyboardInterrupt:
        raise FailedError(
            "Operation continuing in background.\nUse `minictl swarm ca --help` to learn more."
        ) from None


def root_lines(info: RootInfo, wanted: str) -> list[str]:
    """Docker's three lines, and what stands in the way."""
    lines = [
        f"desired root digest: sha256:{wanted}",
        f"  rotated TLS certificates:  {info.certificates}/{info.nodes} nodes",
        f"  rotated CA certificates:   {info.trusting}/{info.nodes} nodes",
    ]
    if info.waiting:
        lines.append(f"  waiting for: {', '.join(info.waiting[:5])}{' ...' if len(info.waiting) > 5 else ''}")
    if info.clients:
        lines.append(f"  client certificates of the old root, void at the end: {info.clients}")
    return lines


def rotate_encryption_key(context: Context, *, detach: bool) -> None:
    """Start it, and wait for its end unless detached."""
    from minictl.client import messages

    context.call("EncryptionKeys/Rotate", messages.RotateEncryptionKeyRequest())
    if detach:
        return
    try:
        for status in _told(context, "EncryptionKeys/Watch", messages.EncryptionStatusRequest()):
            if not status.rotating:
                context.print(f"Encryption key rotated: everything is under key {status.key_id} now.")
                return
    except KeyboardInterrupt:
        raise FailedError("Operation continuing in background.") from None


def _told(context: Context, method: str, request: Any) -> Iterator[Any]:
    """What a watch tells, until the caller has seen enough. Raises CliError when the manager ends it before."""
    stream = context.channel.stream(method, request)
    try:
        while (message := stream.receive()) is not None:
            context.out.flush()
            yield message
    finally:
        stream.cancel()
    raise CliError("the daemon stopped telling how far it is; the change goes on in the background")
