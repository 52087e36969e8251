"""The flags that say how many tasks a service has: its mode, and what only some modes can obey."""

from __future__ import annotations

from minictl import values
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.objects_pb2 import ServiceSpec

    from minictl.flags import Parsed

MODES = ("replicated", "global", "replicated-job", "global-job")
"""At the place of their numbers in the API."""

REPLICATED, GLOBAL, REPLICATED_JOB, GLOBAL_JOB = range(4)

JOBS = (REPLICATED_JOB, GLOBAL_JOB)
GLOBALS = (GLOBAL, GLOBAL_JOB)

_SEVERAL = "replicated or replicated-job mode"

COMMON_FLAGS = (
    Flag(
        "max-concurrent",
        "Number of job tasks to run concurrently (default equal to --replicas)",
        kind=values.UINT,
    ),
    Flag("replicas", "Number of tasks", kind=values.UINT),
)

CREATE_FLAGS = (
    *COMMON_FLAGS,
    Flag(
        "mode",
        'Service mode ("replicated", "global", "replicated-job", "global-job")',
        kind=values.STRING,
        default="replicated",
        shown='"replicated"',
    ),
)


def apply_new(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service create` was given; one replica unless told otherwise. Raises CliError."""
    mode = parsed["mode"]
    if mode not in MODES:
        raise CliError(
            f'invalid mode "{mode}": must be "replicated", "global", "replicated-job" or "global-job"'
        )
    number: Any = MODES.index(mode)
    spec.mode = number
    spec.replicas = 0 if number in GLOBALS else 1
    apply_change(spec, parsed)


def apply_change(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service update` was given. Raises CliError, in Docker's words, for what the mode cannot obey."""
    if spec.mode in GLOBALS:
        for flag in ("replicas", "replicas-max-per-node"):
            if parsed.changed(flag):
                raise CliError(f"{flag} can only be used with {_SEVERAL}")
    if parsed.changed("replicas"):
        spec.replicas = parsed["replicas"]
    if parsed.changed("max-concurrent"):
        if spec.mode != REPLICATED_JOB:
            raise CliError("max-concurrent can only be used with replicated-job mode")
        spec.max_concurrent = parsed["max-concurrent"]
