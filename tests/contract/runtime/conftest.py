"""The runtimes that the contract is held to."""

from support.runtimes import archive, dockerd, empty, kept, opened, subject

__all__ = ["archive", "dockerd", "empty", "kept", "opened", "subject"]
