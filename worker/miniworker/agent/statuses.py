"""Between a task's progress and the status message that tells it."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address

from minicommon.errors import InvalidArgumentError
from miniproto.v1 import objects_pb2 as pb

from miniworker.agent.task_machine import Progress, Stop
from miniworker.network.api import HostPort

_PROTOCOLS = {"tcp": pb.PORT_PROTOCOL_TCP, "udp": pb.PORT_PROTOCOL_UDP}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}


def protocol_name(number: pb.PortProtocol.ValueType) -> str:
    """ "tcp" or "udp"."""
    return _NAMES[number]


def to_status(task_id: str, progress: Progress, *, node_id: str, since_ns: int) -> pb.TaskStatus:
    return pb.TaskStatus(
        id=task_id,
        state=progress.state,
        state_since_ns=since_ns,
        message=progress.message,
        error=progress.error,
        container_id=progress.container_id,
        pid=progress.pid,
        exit_code=progress.exit_code,
        oom_killed=progress.oom_killed,
        host_ports=[_port_config(port) for port in progress.host_ports],
        node_id=node_id,
        unhealthy=progress.unhealthy,
        not_ready=progress.not_ready,
        stop=pb.TaskStop(
            told_at_ns=progress.stop.told_at_ns,
            withdrawn_at_ns=progress.stop.withdrawn_at_ns,
            drained_at_ns=progress.stop.drained_at_ns,
            unacknowledged=progress.stop.unacknowledged,
            open_connections=progress.stop.open_connections,
        ),
    )


def from_status(status: pb.TaskStatus) -> Progress:
    """The progress that a stored status tells, to go on from after a restart."""
    return Progress(
        state=status.state,
        message=status.message,
        error=status.error,
        pulled=status.state > pb.TASK_STATE_PREPARING,
        launched=status.state >= pb.TASK_STATE_STARTING,
        host_ports=tuple(host_port(port) for port in status.host_ports),
        container_id=status.container_id,
        pid=status.pid,
        exit_code=status.exit_code,
        oom_killed=status.oom_killed,
        unhealthy=status.unhealthy,
        not_ready=status.not_ready and status.state > pb.TASK_STATE_STARTING,
        stop=Stop(
            told_at_ns=status.stop.told_at_ns,
            withdrawn_at_ns=status.stop.withdrawn_at_ns,
            drained_at_ns=status.stop.drained_at_ns,
            unacknowledged=status.stop.unacknowledged,
            open_connections=status.stop.open_connections,
        ),
    )


def host_port(port: pb.PortConfig) -> HostPort:
    """Raises InvalidArgumentError: the way to the task has no IPv6."""
    try:
        host_ip = IPv4Address(port.host_ip or 0)
    except AddressValueError as error:
        raise InvalidArgumentError(
            f"host_ip: must be an IPv4 address for a port in host mode, got {port.host_ip}"
        ) from error
    return HostPort(
        protocol_name(port.protocol),
        port.published_port,
        port.target_port,
        None if host_ip.is_unspecified else host_ip,
    )


def _port_config(port: HostPort) -> pb.PortConfig:
    return pb.PortConfig(
        protocol=_PROTOCOLS[port.protocol],
        target_port=port.target_port,
        published_port=port.published_port,
        publish_mode=pb.PUBLISH_MODE_HOST,
        host_ip=str(port.host_ip or ""),
    )
