"""Connection tracking entries: what a NAT rule once decided stays decided until its entry is gone."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from ipaddress import IPv4Address
from socket import IPPROTO_UDP

from pyroute2 import NetlinkError
from pyroute2.conntrack import Conntrack

from miniworker.network.errors import NetworkError


def forget_udp(published_port: int, backends: Iterable[IPv4Address]) -> int:
    """Drop the flows to a published udp port that were led to one of `backends`; how many there were.

    A tcp connection ends by itself; a udp flow would go to the removed task for as long as its client keeps talking.
    """
    addresses = {str(address) for address in backends}
    dropped = 0
    try:
        with Conntrack() as conntrack:
            for entry in list(conntrack.dump_entries()):
                original = entry.tuple_orig
                if (original.proto, original.dport) != (IPPROTO_UDP, published_port):
                    continue
                if entry.tuple_reply.saddr in addresses:
                    dropped += _delete(conntrack, original)
    except NetlinkError as error:
        raise NetworkError(f"cannot drop udp flows to port {published_port}: {error.args[1]}") from error
    return dropped


def _delete(conntrack: Conntrack, original: object) -> int:
    try:
        conntrack.entry("del", tuple_orig=original)
    except NetlinkError as error:
        if error.code != errno.ENOENT:  # it has run out meanwhile
            raise
        return 0
    return 1
