"""Where things are in the store.

An object is at `/mini/<cluster>/<kind>/<id>`. Beside the objects are the claims, keys that exist to be unique, whose
value is the id of the object that owns them: names, published ports and network addresses. They are created and
removed in the transaction that changes their owner. The leader's key is the lease of the control loops.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from minicommon.errors import InvalidArgumentError

from minimanager.domain.objects import (
    ClientCertificate,
    Cluster,
    Config,
    IssuedToken,
    Network,
    Node,
    NodeStatus,
    Object,
    PortProtocol,
    Rollout,
    Secret,
    Service,
    Task,
    TaskStatus,
)

ROOT: Final = "/mini/"


class Kind(StrEnum):
    """The kinds of objects, as keys spell them."""

    CLUSTER = "cluster"
    NODE = "node"
    NODE_STATUS = "node-status"
    SERVICE = "service"
    ROLLOUT = "rollout"
    TASK = "task"
    STATUS = "status"
    NETWORK = "network"
    SECRET = "secret"
    CONFIG = "config"
    TOKEN = "join-token"
    CLIENT = "client-certificate"


CLASSES: Final[dict[Kind, type[Object]]] = {
    Kind.CLUSTER: Cluster,
    Kind.NODE: Node,
    Kind.NODE_STATUS: NodeStatus,
    Kind.SERVICE: Service,
    Kind.ROLLOUT: Rollout,
    Kind.TASK: Task,
    Kind.STATUS: TaskStatus,
    Kind.NETWORK: Network,
    Kind.SECRET: Secret,
    Kind.CONFIG: Config,
    Kind.TOKEN: IssuedToken,
    Kind.CLIENT: ClientCertificate,
}
_KINDS: Final = {cls: kind for kind, cls in CLASSES.items()}
_BY_NAME: Final = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class ObjectKey:
    """An object: its kind and id."""

    kind: Kind
    id: str


@dataclass(frozen=True, slots=True)
class NameClaim:
    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class PortClaim:
    """A port published in ingress mode: one owner in the whole cluster."""

    protocol: PortProtocol
    port: int


@dataclass(frozen=True, slots=True)
class AddressClaim:
    network_id: str
    address: str


@dataclass(frozen=True, slots=True)
class TurnKey:
    kind: Kind


@dataclass(frozen=True, slots=True)
class UseKey:
    """Written whenever something begins to use the object, so that its removal notices."""

    kind: Kind
    id: str


@dataclass(frozen=True, slots=True)
class LeaderKey:
    pass


@dataclass(frozen=True, slots=True)
class BarrierKey:
    pass


ParsedKey = ObjectKey | NameClaim | PortClaim | AddressClaim | TurnKey | UseKey | LeaderKey | BarrierKey


def secret_purpose(secret_id: str, version: int) -> str:
    """What a version of a secret is sealed for."""
    return f"secret/{_part('secret id', secret_id)}/{version}"


def config_purpose(config_id: str) -> str:
    """What a config is sealed for."""
    return f"config/{_part('config id', config_id)}"


def kind_of(obj: Object) -> Kind:
    """The kind under which `obj` is stored."""
    return _KINDS[type(obj)]


class Keys:
    """The keys of one cluster.

    Every part of a key comes from outside in the end, so each is checked: a part that is empty or has a slash or a
    control character would name another key than the one that was meant. Raises InvalidArgumentError for those.
    """

    __slots__ = ("_apart", "_offset", "prefix")

    def __init__(self, cluster_id: str) -> None:
        self.prefix = f"{ROOT}{_part('cluster id', cluster_id)}/"
        """What all keys of the cluster begin with."""
        self._offset = len(self.prefix)
        self._apart = f"{ROOT}{{}}/{cluster_id}/"

    def object(self, kind: Kind, object_id: str) -> str:
        return f"{self.prefix}{kind.value}/{_part(f'{kind.value} id', object_id)}"

    def of(self, obj: Object) -> str:
        """The key of `obj`."""
        return self.object(_KINDS[type(obj)], obj.id)

    def name(self, kind: Kind, name: str) -> str:
        """The claim on a name, unique among the objects of one kind."""
        return f"{self.prefix}name/{kind.value}/{_part(f'{kind.value} name', name)}"

    def port(self, protocol: PortProtocol, port: int) -> str:
        """The claim on a port that is published on every node."""
        if not 1 <= port <= 65535:
            raise InvalidArgumentError(f"published port: must be 1 to 65535, got {port}")
        return f"{self.prefix}port/{protocol.name.lower()}/{port}"

    def address(self, network_id: str, address: str) -> str:
        """The claim on an address of a network, an address without prefix length."""
        try:
            text = str(ipaddress.ip_address(address))
        except ValueError as error:
            raise InvalidArgumentError(f"address: must be an IP address, got {address!r}") from error
        return f"{self.prefix}address/{_part('network id', network_id)}/{text}"

    def use(self, kind: Kind, object_id: str) -> str:
        """Written by whoever begins to use the object."""
        return f"{self.prefix}use/{kind.value}/{_part(f'{kind.value} id', object_id)}"

    # --- apart from the rest, since no manager keeps it in memory ---

    @property
    def sealed(self) -> str:
        """What the sealed contents of secrets and configs begin with."""
        return self._apart.format("sealed")

    def secret_content(self, secret_id: str, version: int) -> str:
        """Where a version of a secret is, sealed for `secret_purpose`."""
        return f"{self.sealed}{secret_purpose(secret_id, version)}"

    def config_content(self, config_id: str) -> str:
        return f"{self.sealed}{config_purpose(config_id)}"

    @property
    def ledger(self) -> str:
        """What the ledger's keys begin with."""
        return self._apart.format("ledger")

    def ledger_entry(self, number: int) -> str:
        """The entries are in the order of their keys."""
        return f"{self.ledger_entries}{number:016}"

    @property
    def ledger_entries(self) -> str:
        """What the keys of the entries begin with."""
        return f"{self.ledger}entry/"

    def ledger_receipt(self, number: int) -> str:
        """There once the delivery of this number has its receipt."""
        return f"{self.ledger_receipts}{number:016}"

    @property
    def ledger_receipts(self) -> str:
        return f"{self.ledger}receipt/"

    @property
    def ledger_checkpoint(self) -> str:
        """There once the oldest records were removed."""
        return f"{self.ledger}checkpoint"

    @property
    def ledger_head(self) -> str:
        return f"{self.ledger}head"

    @property
    def ledger_key(self) -> str:
        """The sealed key of the ledger's MACs."""
        return f"{self.ledger}key"

    @property
    def addresses(self) -> str:
        """What the claims on addresses begin with."""
        return f"{self.prefix}address/"

    def turn(self, kind: Kind) -> str:
        """Written with each new object of a kind that is chosen by what the others have: one at a time is."""
        return f"{self.prefix}turn/{kind.value}"

    @property
    def leader(self) -> str:
        """Held, by a lease, by the manager that runs the control loops."""
        return f"{self.prefix}leader"

    @property
    def barrier(self) -> str:
        """Written for its revision only: all that came before is older."""
        return f"{self.prefix}barrier"

    def key_holder(self, node_id: str) -> str:
        """Which cluster keys a manager has on its disk."""
        return f"{self.key_holders}{_part('node id', node_id)}"

    @property
    def key_holders(self) -> str:
        """What the keys of `key_holder` begin with."""
        return f"{self.prefix}key-holder/"

    def parse(self, key: str) -> ParsedKey | None:
        """What `key` stands for; None when it is not one of this cluster's keys."""
        if not key.startswith(self.prefix):
            return None
        match key[self._offset :].split("/"):
            case [kind, object_id] if kind in _BY_NAME and object_id:
                return ObjectKey(_BY_NAME[kind], object_id)
            case ["address", network_id, address] if network_id and address:
                return AddressClaim(network_id, address)
            case ["name", kind, name] if kind in _BY_NAME and name:
                return NameClaim(_BY_NAME[kind], name)
            case ["port", ("tcp" | "udp") as protocol, port] if port.isdecimal():
                return PortClaim(PortProtocol[protocol.upper()], int(port))
            case ["turn", kind] if kind in _BY_NAME:
                return TurnKey(_BY_NAME[kind])
            case ["use", kind, object_id] if kind in _BY_NAME and object_id:
                return UseKey(_BY_NAME[kind], object_id)
            case ["leader"]:
                return LeaderKey()
            case ["barrier"]:
                return BarrierKey()
            case _:
                return None


def _part(what: str, text: str) -> str:
    if not text or "/" in text or not text.isprintable():
        raise InvalidArgumentError(
            f"{what}: must not be empty nor contain '/' or control characters, got {text!r}"
        )
    return text
