"""Channels: to a daemon on this machine, to a manager, and to a manager of a cluster that one is about to join."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc

from minicommon.identity import names
from minicommon.rpc import options
from minicommon.rpc.credentials import NodeCredentials

_AS_MANAGER: Final = (("grpc.ssl_target_name_override", names.MANAGER),)
"""The other side must show a manager's certificate: managers move, so their addresses are not in it."""


def unix_channel(socket: Path) -> grpc.aio.Channel:
    """To a daemon on this machine."""
    return grpc.aio.insecure_channel(f"unix:{socket}", options=options.CLIENT)


def manager_channel(address: str, credentials: NodeCredentials) -> grpc.aio.Channel:
    """To a manager's control port at host:port, with this node's certificate."""
    return grpc.aio.secure_channel(
        address,
        grpc.ssl_channel_credentials(
            credentials.root_ca_pem, credentials.key_pem, credentials.certificate_pem
        ),
        options=(*options.CLIENT, *_AS_MANAGER),
    )


def join_channel(address: str, root_ca_pem: bytes) -> grpc.aio.Channel:
    """To a manager's join port, without a certificate of one's own."""
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(root_ca_pem), options=(*options.CLIENT, *_AS_MANAGER)
    )
