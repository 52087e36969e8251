"""The flags of a service's health and readiness checks. Besides Docker's, there are checks without need of the image.

Both kinds have the same flags. A health check says whether a container lives, a readiness check whether it gets
traffic.
"""

from __future__ import annotations

from minictl import values
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from miniproto.v1.objects_pb2 import HealthCheck, ServiceSpec

    from minictl.flags import Parsed

_UNITS = "(ms|s|m|h)"


def _port(text: str) -> str:
    """`5432` or `:5432`."""
    port = text.removeprefix(":")
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65_535:
        raise ValueError(f"must be a port, not {values.quote(text)}")
    return port


def _http(text: str) -> str:
    """`8080/healthz`, also after `http://`, with `:` or `localhost:` before the port."""
    rest = text.removeprefix("http://").removeprefix("localhost")
    port, slash, path = rest.partition("/")
    return f"{_port(port)}{slash}{path}"


FLAGS = (
    Flag("health-cmd", "Command to run to check health", kind=values.STRING),
    Flag(
        "health-http",
        "PORT/PATH in the container that answers 2xx or 3xx while it is healthy",
        kind=values.Kind("string", _http),
    ),
    Flag("health-interval", f"Time between running the check {_UNITS}", kind=values.DURATION),
    Flag("health-retries", "Consecutive failures needed to report unhealthy", kind=values.UINT),
    Flag(
        "health-start-interval",
        f"Time between running the check during the start period {_UNITS}",
        kind=values.DURATION,
    ),
    Flag(
        "health-start-period",
        f"Start period for the container to initialize before counting retries towards unstable {_UNITS}",
        kind=values.DURATION,
    ),
    Flag(
        "health-tcp",
        "PORT in the container that accepts connections while it is healthy",
        kind=values.Kind("string", _port),
    ),
    Flag("health-timeout", f"Maximum time to allow one check to run {_UNITS}", kind=values.DURATION),
    Flag("no-healthcheck", "Disable any container-specified HEALTHCHECK"),
    Flag(
        "ready-cmd",
        'Command that succeeds while the container may get traffic ("" = no check)',
        kind=values.STRING,
    ),
    Flag(
        "ready-http",
        "PORT/PATH in the container that answers 2xx or 3xx while it may get traffic",
        kind=values.Kind("string", _http),
    ),
    Flag(
        "ready-interval",
        f"Time between running the readiness check {_UNITS} (default 10s)",
        kind=values.DURATION,
    ),
    Flag(
        "ready-retries",
        "Consecutive failures after which traffic is taken away (default 3)",
        kind=values.UINT,
    ),
    Flag(
        "ready-start-period",
        f"Time after the start during which the readiness check runs more often {_UNITS}",
        kind=values.DURATION,
    ),
    Flag(
        "ready-tcp",
        "PORT in the container that accepts connections while it may get traffic",
        kind=values.Kind("string", _port),
    ),
    Flag(
        "ready-timeout",
        f"Maximum time to allow one readiness check to run {_UNITS} (default 1s)",
        kind=values.DURATION,
    ),
)

_TESTS = (("cmd", "CMD-SHELL"), ("http", "HTTP"), ("tcp", "TCP"))
_NUMBERS = {
    "interval": "interval_ns",
    "retries": "retries",
    "start-interval": "start_interval_ns",
    "start-period": "start_period_ns",
    "timeout": "timeout_ns",
}
_NAMES = frozenset(flag.name for flag in FLAGS)


def apply(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service create` or `service update` was given. Raises CliError for what contradicts itself."""
    container = spec.task.container
    given = _given("health", parsed)
    if parsed["no-healthcheck"]:
        if given:
            raise CliError("--no-healthcheck conflicts with --health-* options")
        container.ClearField("health")
        container.health.test[:] = ["NONE"]
    elif given:
        if list(container.health.test) == ["NONE"]:
            container.health.test[:] = []
        _apply(container.health, "health", parsed)
    if _given("ready", parsed):
        _apply(container.ready, "ready", parsed)
        if parsed.changed("ready-cmd") and not parsed["ready-cmd"]:
            container.ClearField("ready")


def _given(prefix: str, parsed: Parsed) -> list[str]:
    """The flags of one kind that were given. Raises CliError when they name two checks."""
    kinds = [f"{prefix}-{name}" for name, _ in _TESTS if parsed.changed(f"{prefix}-{name}")]
    if len(kinds) > 1:
        raise CliError(f"--{kinds[0]} conflicts with --{kinds[1]}")
    numbers = [f"{prefix}-{name}" for name in _NUMBERS if f"{prefix}-{name}" in _NAMES]
    return kinds + [flag for flag in numbers if parsed.changed(flag)]


def _apply(check: HealthCheck, prefix: str, parsed: Parsed) -> None:
    for name, kind in _TESTS:
        flag = f"{prefix}-{name}"
        if parsed.changed(flag):  # an empty command asks for the image's check again
            check.test[:] = [kind, parsed[flag]] if parsed[flag] else []
    for name, field in _NUMBERS.items():
        flag = f"{prefix}-{name}"
        if flag in _NAMES and parsed.changed(flag):
            setattr(check, field, parsed[flag])
