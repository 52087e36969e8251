"""The kernel path: the table of published ports that nft keeps in the kernel, and which path a node has at all."""

from __future__ import annotations

import logging

from minicommon.log import fields

from miniworker.ingress.rules import Named, ingress_rules, named, read_named
from miniworker.ingress.table import PortTable, removed_backends
from miniworker.network import nft
from miniworker.network.conntrack import forget_udp
from miniworker.network.errors import NetworkError
from miniworker.network.names import INGRESS_TABLE

logger = logging.getLogger(__name__)


def kernel_path_works() -> bool:
    """Whether the kernel would take the rules; nothing is changed."""
    try:
        nft.check_script(ingress_rules(()))
    except NetworkError as error:
        logger.warning(
            "No kernel path on this node: published ports are served in userspace, where tasks do not see the "
            "client's address.",
            extra=fields(error=error.message),
        )
        return False
    return True


class KernelPath:
    """Follows tables; all its methods work in threads. The rules stay when the process ends."""

    def __init__(self) -> None:
        self._applied: PortTable = {}
        self._named: Named | None = None
        """None: not known, so the kernel is read first."""
        self._rules = ""

    def program(self, table: PortTable) -> None:
        """Return when the kernel's rules are those of the table. Raises NetworkError: the old ones are in force."""
        rules = ingress_rules(table.values())
        if rules != self._rules:
            self._replace(table)
            self._rules = rules
        for key, backends in removed_backends(self._applied, table).items():
            if key.protocol == "udp":
                forget_udp(key.port, backends)
        self._applied = table

    def repair(self) -> bool:
        """Put the rules back if somebody has removed them; whether that was so. Raises NetworkError."""
        if not self._rules or read_named(nft.list_names("inet", INGRESS_TABLE)) == self._named:
            return False
        self._replace(self._applied)
        return True

    def clear(self) -> None:
        """Remove the rules that an earlier process may have left."""
        nft.delete_table("inet", INGRESS_TABLE)

    def _replace(self, table: PortTable) -> None:
        known, self._named = self._named, None
        if known is not None:
            try:
                nft.run_script(ingress_rules(table.values(), known))
            except NetworkError:
                known = None  # somebody has flushed the rule set: look what is left of the table
        if known is None:
            found = read_named(nft.list_names("inet", INGRESS_TABLE))
            nft.run_script(ingress_rules(table.values(), found))
        self._named = named(table.values())
