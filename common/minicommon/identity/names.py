"""The words of a certificate's subject, and the kinds of callers that they make."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

ROOT_NAME: Final = "swarm-ca"
"""CN of the root (swarmkit `ca/certificates.go`), and a name that every manager answers to."""

MANAGER: Final = "swarm-manager"
"""OU of a manager's certificate (swarmkit `ca/certificates.go`), and the name that its clients verify."""

WORKER: Final = "swarm-worker"
"""OU of a worker's certificate (swarmkit `ca/certificates.go`)."""

VIEWER: Final = "swarm-client-viewer"
OPERATOR: Final = "swarm-client-operator"
ADMIN: Final = "swarm-client-admin"


class Caller(IntEnum):
    """Who calls. The numbers are those of `mini.v1.Caller`."""

    ANYONE = 1
    LOCAL = 2
    WORKER = 3
    MANAGER = 4
    VIEWER = 5
    OPERATOR = 6
    ADMIN = 7

    @property
    def is_node(self) -> bool:
        """Whether the certificate is a node's, so that its CN is a node id."""
        return self in (Caller.WORKER, Caller.MANAGER)


CALLERS: Final = {
    WORKER: Caller.WORKER,
    MANAGER: Caller.MANAGER,
    VIEWER: Caller.VIEWER,
    OPERATOR: Caller.OPERATOR,
    ADMIN: Caller.ADMIN,
}
"""What the OU of a certificate makes its holder."""
