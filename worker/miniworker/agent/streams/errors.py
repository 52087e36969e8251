"""The runtime's errors as those that have a gRPC code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from minicommon.errors import FailedPreconditionError, NotFoundError

from miniworker.network.errors import NetworkError
from miniworker.runtime.api import ImageError, NoSuchContainerError, NoSuchPathError, RuntimeFaultError


@contextmanager
def told(prefix: str = "") -> Iterator[None]:
    """What is raised inside is told to whoever asked, a fault of the runtime's with this before it."""
    try:
        yield
    except (NoSuchContainerError, NoSuchPathError) as error:
        raise NotFoundError(error.message) from error
    except RuntimeFaultError as error:
        raise FailedPreconditionError(f"{prefix}{error.message}") from error
    except (ImageError, NetworkError) as error:
        raise FailedPreconditionError(error.message) from error
