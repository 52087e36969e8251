"""The runtimes that the contract is held to."""

from support.runtimes import archive, dockerd, empty, subject

__all__ = ["archive", "dockerd", "empty", "subject"]
