"""The flags of a service's health check. Besides Docker's there are checks that need nothing in the image."""

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
)

_TESTS = (("health-cmd", "CMD-SHELL"), ("health-http", "HTTP"), ("health-tcp", "TCP"))
_NUMBERS = {
    "health-interval": "interval_ns",
    "health-retries": "retries",
    "health-start-interval": "start_interval_ns",
    "health-start-period": "start_period_ns",
    "health-timeout": "timeout_ns",
}


def apply(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service create` or `service update` was given. Raises CliError for what contradicts itself."""
    kinds = [flag for flag, _ in _TESTS if parsed.changed(flag)]
    numbers = [flag for flag in _NUMBERS if parsed.changed(flag)]
    if len(kinds) > 1:
        raise CliError(f"--{kinds[0]} conflicts with --{kinds[1]}")
    if parsed["no-healthcheck"]:
        if kinds or numbers:
            raise CliError("--no-healthcheck conflicts with --health-* options")
        spec.task.container.ClearField("health")
        spec.task.container.health.test[:] = ["NONE"]
        return
    if kinds or numbers:
        _apply(spec.task.container.health, parsed, numbers)


def _apply(check: HealthCheck, parsed: Parsed, numbers: list[str]) -> None:
    if list(check.test) == ["NONE"]:
        check.test[:] = []
    for flag, kind in _TESTS:
        if parsed.changed(flag):  # an empty command asks for the image's check again
            check.test[:] = [kind, parsed[flag]] if parsed[flag] else []
    for flag in numbers:
        setattr(check, _NUMBERS[flag], parsed[flag])
