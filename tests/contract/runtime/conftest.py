"""The runtimes that the contract is held to."""

from support.runtimes import archive, empty, subject

__all__ = ["archive", "empty", "subject"]
