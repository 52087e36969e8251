"""Connection tracking entries: what a NAT rule once decided stays decided until its entry is gone."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address
from socket import AF_INET, IPPROTO_UDP

from pyroute2 import NetlinkError
from pyroute2.conntrack import Conntrack

from miniworker.network import nfnetlink
from miniworker.network.errors import NetworkError
from miniworker.network.nfnetlink import attribute, nest

_DELETE = 1 << 8 | 2  # IPCTNL_MSG_CT_DELETE, <linux/netfilter/nfnetlink_conntrack.h>
_BY_SOURCE, _BY_DESTINATION, _BY_PROTOCOL = 1 << 0, 1 << 1, 1 << 3  # nf_internals.h of the kernel


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


def forget_udp_backend(address: IPv4Address, backend: IPv4Address) -> None:
    """Drop the udp flows to `address` that were led to `backend`, in the calling thread's network namespace.

    The kernel looks for them itself: one message, however many connections there are.
    """
    protocol = nest(2, attribute(1, bytes([IPPROTO_UDP])))
    original = nest(1, attribute(2, address.packed)) + protocol
    reply = nest(1, attribute(1, backend.packed))
    which = attribute(1, struct.pack("=I", _BY_DESTINATION | _BY_PROTOCOL))
    which += attribute(2, struct.pack("=I", _BY_SOURCE))
    body = nest(1, original) + nest(2, reply) + nest(25, which)
    error = nfnetlink.request(_DELETE, 0, AF_INET, body)
    if error not in (0, errno.ENOENT):
        raise NetworkError(f"cannot drop udp flows from {address} to {backend}: {os.strerror(error)}")


def _delete(conntrack: Conntrack, original: object) -> int:
    try:
        conntrack.entry("del", tuple_orig=original)
    except NetlinkError as error:
        if error.code != errno.ENOENT:  # it has run out meanwhile
            raise
        return 0
    return 1
