"""Opens, on its way to a node, what the store holds sealed."""

from __future__ import annotations

import logging
from typing import Protocol

from minicommon.errors import FailedPreconditionError
from minicommon.log import fields
from miniproto.v1 import objects_pb2

logger = logging.getLogger(__name__)


class Sealer(Protocol):
    """`minimanager.ca.sealer` has it."""

    def open_registry_auth(self, service_id: str, sealed: bytes) -> bytes: ...


class Opener:
    """One for all sessions."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def registry_auth(self, service_id: str, sealed: bytes) -> objects_pb2.RegistryAuth | None:
        """How to log in to the registry of the service's image.

        None: there is nothing to be shown, or what there is does not open any more; the session must not end for it,
        and the node learns from the registry what is wrong.
        """
        if not sealed:
            return None
        try:
            return objects_pb2.RegistryAuth.FromString(self._sealer.open_registry_auth(service_id, sealed))
        except FailedPreconditionError as error:
            logger.error(
                "A service's registry credentials do not open.",
                extra=fields(service_id=service_id, error=error.message),
            )
            return None
