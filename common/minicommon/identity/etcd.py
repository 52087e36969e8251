"""The certificates of etcd: a root of its own, which only managers hold.

A member's certificate serves both ends, since etcd also dials itself and its peers with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from minicommon.identity.authority import (
    ROOT_LIFETIME_NS,
    Authority,
    KeyPair,
    Subject,
    issue_with_key,
    new_root,
)

ETCD_ROOT_NAME: Final = "mini-etcd-ca"

LOOPBACK: Final = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class EtcdCertificates:
    """What one manager needs to run a member and to talk to it."""

    server: KeyPair
    peer: KeyPair
    client: KeyPair = field(repr=False)


def new_etcd_root(now_ns: int) -> Authority:
    """The root that etcd's members and the managers trust among themselves."""
    return new_root(ETCD_ROOT_NAME, now_ns)


def issue_etcd(authority: Authority, *, name: str, hosts: tuple[str, ...], now_ns: int) -> EtcdCertificates:
    """Certificates for the member `name`, which is dialed at `hosts` and on the loopback interface.

    They last as long as the root: nothing outside the managers ever sees them, and etcd would have to be restarted
    for new ones.
    """

    def pair(role: str, names: tuple[str, ...]) -> KeyPair:
        subject = Subject(f"{role}-{name}", hosts=names)
        return issue_with_key(authority, subject, now_ns=now_ns, lifetime_ns=ROOT_LIFETIME_NS)

    everywhere = (*hosts, *LOOPBACK)
    return EtcdCertificates(pair("server", everywhere), pair("peer", everywhere), pair("client", ()))
