"""The rules inside a sandbox, as transactions: pure.

Two things are done there. Virtual addresses: a connection to a service's address is led to the next of its tasks,
where it stays. And answers on the ingress network go back through the node that the request came from: packets of a
client keep its address, so the way back cannot be told from it. It is told from the frame, whose source is the bridge
of the node it came through: its last four bytes become the mark of the connection, then of each answer, and at the
very end the target of the answer's frame.

One client may use one source port for connections through two nodes, which in the task would be the same connection.
So each node has a zone of connection tracking of its own for what comes in, and all share one for what goes out: the
kernel gives the second a source port that is free there.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from itertools import count

from miniworker.network import nfnetlink as nf
from miniworker.network.names import TABLE
from miniworker.network.nfnetlink import FAMILY_IP, FAMILY_NETDEV, Hook, Message
from miniworker.network.vips import Vip, VipDelta

INGRESS_INTERFACE = "eth0"
"""A task's interface on the ingress network."""

NOBODY = IPv4Address("127.109.105.110")
"""Where connections to a service without tasks are led, and refused: whoever is turned away while he sends is told
EPERM, not that he is refused."""

_SERVICES = "services"
"""The map of virtual addresses to chains."""

_NOBODY_CHAIN = "nobody"

_RAW, _MANGLE, _DNAT, _FILTER, _SNAT = -300, -150, -100, 0, 100  # priorities, <linux/netfilter_ipv4.h>

_SERVICES_NUMBER, _FIRST_CHOICE = 1, 2
"""Numbers that sets have within one transaction."""

_SOURCE, _TARGET = 6, 0  # in an Ethernet header
_LAST_FOUR, _LAST_TWO = 2, 4  # in a hardware address of ours: the address, its last two bytes

_NONE = bytes(4)
_TCP = bytes([socket.IPPROTO_TCP])
_DESTINATION = nf.load_payload(nf.NETWORK_LAYER, 16, 4)
_IS_NEW = (nf.load_ct(nf.CT_STATE), nf.masked(nf.STATE_NEW), nf.differs(_NONE))


def new_tables(vips: Iterable[Vip], *, ingress: bool) -> list[Message]:
    """All of a sandbox' rules, in a namespace that has none of ours."""
    messages = [nf.new_table(FAMILY_IP, TABLE), *_virtual_addresses(), *change_vips(VipDelta.of((), vips))]
    return [*messages, *_returns()] if ingress else messages


def replaced_tables(vips: Iterable[Vip], *, ingress: bool) -> list[Message]:
    """The same for a namespace that may have some. Connections go on: what was decided for them stays."""
    return [*removed_tables(), *new_tables(vips, ingress=ingress)]


def removed_tables() -> list[Message]:
    """None of ours, whether or not there were some."""
    removals: list[Message] = []
    for family in (FAMILY_IP, FAMILY_NETDEV):
        removals += [nf.new_table(family, TABLE), nf.delete_table(family, TABLE)]
    return removals


def change_vips(change: VipDelta) -> list[Message]:
    """What leads from some virtual addresses to others; each packet meets the old ones or the new ones."""
    numbers = count(_FIRST_CHOICE)
    messages = nf.delete_elements(TABLE, _SERVICES, [vip.address for vip in change.removed])
    for vip in change.removed:
        if vip.backends:
            messages.append(nf.flush_chain(FAMILY_IP, TABLE, chain_of(vip)))
            messages.append(nf.delete_chain(FAMILY_IP, TABLE, chain_of(vip)))
    for vip in change.changed:
        messages.append(nf.flush_chain(FAMILY_IP, TABLE, chain_of(vip)))
        messages += _choice(vip, next(numbers))
    for vip in change.added:
        if vip.backends:
            messages.append(nf.new_chain(FAMILY_IP, TABLE, chain_of(vip)))
            messages += _choice(vip, next(numbers))
    return [
        *messages,
        *nf.add_chains(TABLE, _SERVICES, [(vip.address, chain_of(vip)) for vip in change.added]),
    ]


def chain_of(vip: Vip) -> str:
    return f"vip-{vip.address}" if vip.backends else _NOBODY_CHAIN


def _choice(vip: Vip, identifier: int) -> list[Message]:
    rule = nf.new_rule(
        FAMILY_IP,
        TABLE,
        chain_of(vip),
        nf.next_of(len(vip.backends)),
        nf.chosen_from(identifier),
        nf.dnat(),
    )
    return [*nf.new_choice(TABLE, vip.backends, identifier=identifier), rule]


def _virtual_addresses() -> Sequence[Message]:
    to_nobody = (_DESTINATION, nf.equals(NOBODY.packed))
    is_tcp = (nf.load_meta(nf.META_L4PROTO), nf.equals(_TCP))
    return (
        nf.new_verdict_map(TABLE, _SERVICES, identifier=_SERVICES_NUMBER),
        nf.new_chain(FAMILY_IP, TABLE, _NOBODY_CHAIN),
        _rule(_NOBODY_CHAIN, nf.load_value(NOBODY.packed), nf.dnat()),
        nf.new_chain(FAMILY_IP, TABLE, "balance", Hook("nat", nf.LOCAL_OUT, _DNAT)),
        _rule("balance", _DESTINATION, nf.verdict_of(_SERVICES, identifier=_SERVICES_NUMBER)),
        nf.new_chain(FAMILY_IP, TABLE, "refuse", Hook("filter", nf.LOCAL_IN, _FILTER)),
        _rule("refuse", *to_nobody, *is_tcp, nf.reject_tcp()),
        _rule("refuse", *to_nobody, nf.reject_port()),
    )


def _returns() -> Sequence[Message]:
    from_ingress = (nf.load_meta(nf.META_IIFNAME), nf.equals(nf.interface(INGRESS_INTERFACE)))
    node = nf.load_payload(nf.LINK_LAYER, _SOURCE + _LAST_FOUR, 4)
    zone = nf.load_payload(nf.LINK_LAYER, _SOURCE + _LAST_TWO, 2)
    egress = Hook("filter", nf.NETDEV_EGRESS, _FILTER, INGRESS_INTERFACE)
    return (
        nf.new_chain(FAMILY_IP, TABLE, "zones", Hook("filter", nf.PREROUTING, _RAW)),
        _rule("zones", *from_ingress, zone, nf.set_original_zone()),
        nf.new_chain(FAMILY_IP, TABLE, "requests", Hook("filter", nf.PREROUTING, _MANGLE)),
        _rule("requests", *from_ingress, *_IS_NEW, node, nf.set_ct(nf.CT_MARK)),
        nf.new_chain(FAMILY_IP, TABLE, "answers", Hook("route", nf.LOCAL_OUT, _MANGLE)),
        _rule("answers", nf.load_ct(nf.CT_MARK), nf.differs(_NONE), nf.set_meta(nf.META_MARK)),
        # Without a rule: the kernel looks for a free source port wherever it might translate one.
        nf.new_chain(FAMILY_IP, TABLE, "distinct", Hook("nat", nf.LOCAL_IN, _SNAT)),
        nf.new_table(FAMILY_NETDEV, TABLE),
        nf.new_chain(FAMILY_NETDEV, TABLE, "back", egress),
        nf.new_rule(
            FAMILY_NETDEV,
            TABLE,
            "back",
            nf.load_meta(nf.META_MARK),
            nf.differs(_NONE),
            nf.set_payload(nf.LINK_LAYER, _TARGET + _LAST_FOUR, 4),
        ),
    )


def _rule(chain: str, *expressions: bytes) -> Message:
    return nf.new_rule(FAMILY_IP, TABLE, chain, *expressions)
