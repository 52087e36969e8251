"""What the data plane refuses or fails at."""

from __future__ import annotations

from minicommon.errors import FailedPreconditionError, MiniError


class NetworkError(MiniError):
    """The kernel did not do what was asked; the text says what and why. Trying again may help."""


class NoInterfaceError(NetworkError):
    """An interface is not there; the text names it."""


class PortInUseError(FailedPreconditionError):
    """A port of the node is taken; the text names the holder."""


class UnknownNetworkError(FailedPreconditionError):
    """The network of an attachment is not on this node."""


class CannotEncryptError(FailedPreconditionError):
    """A network is encrypted, and this node cannot do that."""
