"""What nodes say of their networks, in lines."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniproto.v1.streams_pb2 import NetworkHop, NodeNetworkReport, TraceRequest, TraceResponse

_SHOWN_TARGETS = 4
"""So that a trace has about ten lines."""


def is_well(report: NodeNetworkReport) -> bool:
    return not (report.problem or report.untold or report.surplus or report.differences)


def doctor(reports: Sequence[NodeNetworkReport]) -> Iterator[str]:
    """A line for each node, and below it one for each difference."""
    for report in reports:
        name = report.node_hostname or report.node_id
        count = len(report.untold) + len(report.surplus) + len(report.differences)
        if is_well(report):
            yield f"{name}: as it should be"
            continue
        differences = "" if not count else "1 difference" if count == 1 else f"{count} differences"
        yield f"{name}: {'; '.join(item for item in (differences, report.problem) if item)}"
        for key in report.untold:
            yield f"  told    {key}: not told, or told otherwise than it is in etcd"
        for key in report.surplus:
            yield f"  told    {key}: still told, not in etcd"
        for item in report.differences:
            where = f", task {item.task_id}" if item.task_id else ""
            state = "missing" if item.missing else "not planned"
            yield f"  kernel  {item.kind} {state}: {item.item}{where}"


def arrives(response: TraceResponse) -> bool:
    """Whether the packet gets to a task or a process, and the answer back, for all that is known."""
    packet = response.packet
    hops = [*packet.targets, *response.back]
    whole = not packet.dropping and not any(hop.problem for hop in hops)
    return packet.verdict in ("led", "listener") and whole


def trace(response: TraceResponse, request: TraceRequest) -> Iterator[str]:
    """The way of the packet and of its answer."""
    packet, name = response.packet, response.node_hostname or response.node_id
    port = f"{request.port}/{'udp' if request.protocol == 1 else 'tcp'}"
    yield f"{request.client} -> {name} ({response.destination}) port {port}"
    for rule in packet.rules:
        yield f"  rule     {rule}"
    match packet.verdict:
        case "led":
            yield from _led(response, request, name)
        case "refused":
            yield "  refused  no task may get its traffic now; the client is told at once"
        case "listener" if packet.listener.startswith("mini-ingress"):
            yield f"  taken    by {packet.listener}: the userspace path, which tries the tasks one after the other"
        case "listener":
            yield f"  taken    by {packet.listener}: a process of the node itself, not a published port"
        case "closed" if packet.rules:
            at = response.destination
            yield f"  closed   the port is published on another address, and no process listens on {at}"
        case "closed":
            yield f"  closed   {port} is not published on {name}, and no process there listens on it"
        case "dropped":
            yield "  dropped  by the last of these rules"
        case _:
            yield f"  unknown  a rule is not understood: {packet.choice}"


def _led(response: TraceResponse, request: TraceRequest, name: str) -> Iterator[str]:
    packet = response.packet
    count = len(packet.targets)
    how = packet.choice or ("the only one" if count == 1 else "one of them")
    yield f"  goes to  {f'one of {count}, ' if count > 1 else ''}{how}:"
    for hop in packet.targets[:_SHOWN_TARGETS]:
        who = hop.task_name or hop.task_id or "an unknown task"
        yield f"             {hop.address}:{hop.port}  {who} {_way(hop, response.node_id)}"
    if count > _SHOWN_TARGETS:
        yield f"             and {count - _SHOWN_TARGETS} more"
    if packet.back_to:
        for hop in response.back:
            yield f"  back     {hop.node_hostname or hop.node_id} {_to(hop, name)}"
    yield f"  answer   leaves {name} from {response.destination}:{request.port} to {request.client}"
    for chain in packet.dropping:
        yield f"  dropped  maybe: another firewall of {name} drops what is forwarded to tasks: {chain}"


def _way(hop: NetworkHop, node_id: str) -> str:
    if hop.problem:
        return f"cannot be reached: {hop.problem}"
    if not hop.vtep:
        return f"here, by {hop.device}"
    through = f" through {hop.via} (encrypted)" if hop.via else ""
    return f"on {hop.node_hostname or hop.vtep}, by tunnel {hop.device} to {hop.vtep}{through}"


def _to(hop: NetworkHop, name: str) -> str:
    if hop.problem:
        return f"cannot send answers back to {name} ({hop.address}): {hop.problem}"
    return f"sends the answer to {name} ({hop.address}), by tunnel {hop.device} to {hop.vtep}"
