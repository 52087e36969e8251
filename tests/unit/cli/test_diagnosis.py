"""What `network doctor` and `trace` print, and when their exit code is 1."""

from __future__ import annotations

from minictl.views import diagnosis
from miniproto.v1 import streams_pb2 as pb


def request(port: int = 4567, protocol: int = 0) -> pb.TraceRequest:
    return pb.TraceRequest(client="10.77.0.99", node="core-02", protocol=protocol, port=port)  # type: ignore[arg-type]


def traced(verdict: str, *back: pb.NetworkHop, **fields: object) -> pb.TraceResponse:
    packet = pb.TracedPacket(verdict=verdict, **fields)  # type: ignore[arg-type]
    return pb.TraceResponse(
        node_id="b", node_hostname="core-02", destination="10.77.0.12", packet=packet, back=back
    )


def hop(number: int, **fields: str) -> pb.NetworkHop:
    named = {"task_name": f"web.{number}", "device": "mve-1", "node_hostname": "core-02", **fields}
    return pb.NetworkHop(address=f"10.0.0.{number}", port=80, **named)


FAR = {"device": "mvx-1", "vtep": "10.77.0.11", "node_hostname": "core-01"}
BACK = pb.NetworkHop(address="10.0.0.3", device="mvx-1", vtep="10.77.0.12", node_hostname="core-01")


def test_a_packet_that_arrives() -> None:
    response = traced(
        "led",
        BACK,
        rules=["map served: tcp . 4567 -> tcp-4567"],
        choice="in turn",
        targets=[hop(1), hop(2, **FAR)],
        back_to="10.0.0.3",
    )
    assert list(diagnosis.trace(response, request())) == [
        "10.77.0.99 -> core-02 (10.77.0.12) port 4567/tcp",
        "  rule     map served: tcp . 4567 -> tcp-4567",
        "  goes to  one of 2, in turn:",
        "             10.0.0.1:80  web.1 here, by mve-1",
        "             10.0.0.2:80  web.2 on core-01, by tunnel mvx-1 to 10.77.0.11",
        "  back     core-01 sends the answer to core-02 (10.0.0.3), by tunnel mvx-1 to 10.77.0.12",
        "  answer   leaves core-02 from 10.77.0.12:4567 to 10.77.0.99",
    ]
    assert diagnosis.arrives(response)


def test_many_tasks_are_some_and_how_many_more() -> None:
    response = traced("led", choice="in turn", targets=[hop(number) for number in range(1, 101)])
    lines = list(diagnosis.trace(response, request()))
    assert "             and 96 more" in lines
    assert len(lines) < 10


def test_what_is_broken_on_the_way_is_said_there() -> None:
    lost = pb.NetworkHop(
        address="10.0.0.3", node_hostname="core-01", problem="no forwarding entry leads to x"
    )
    for response, line in (
        (
            traced("led", targets=[hop(1, problem="its interface is gone")]),
            "             10.0.0.1:80  web.1 cannot be reached: its interface is gone",
        ),
        (
            traced("led", lost, targets=[hop(1)], back_to="10.0.0.3"),
            "  back     core-01 cannot send answers back to core-02 (10.0.0.3): no forwarding entry leads to x",
        ),
        (
            traced("led", targets=[hop(1)], dropping=["ip filter FORWARD"]),
            "  dropped  maybe: another firewall of core-02 drops what is forwarded to tasks: ip filter FORWARD",
        ),
    ):
        assert line in list(diagnosis.trace(response, request()))
        assert not diagnosis.arrives(response)


def test_an_encrypted_tunnel_is_said_to_be_one() -> None:
    response = traced("led", targets=[hop(2, **FAR, via="mini-wg")])
    assert "through mini-wg (encrypted)" in "\n".join(diagnosis.trace(response, request()))


def test_every_other_end_has_its_words() -> None:
    for response, words in (
        (traced("refused"), "  refused  no task may get its traffic now; the client is told at once"),
        (
            traced("closed"),
            "  closed   53/udp is not published on core-02, and no process there listens on it",
        ),
        (
            traced("closed", rules=["chain udp-53"]),
            "  closed   the port is published on another address, and no process listens on 10.77.0.12",
        ),
        (traced("dropped"), "  dropped  by the last of these rules"),
        (
            traced("unknown", choice="a statement 'queue'"),
            "  unknown  a rule is not understood: a statement 'queue'",
        ),
    ):
        assert list(diagnosis.trace(response, request(53, 1)))[-1] == words
        assert not diagnosis.arrives(response)
    ours = traced("listener", listener="mini-ingress (pid 5)")
    assert "the userspace path" in list(diagnosis.trace(ours, request()))[-1]
    other = traced("listener", listener="nginx (pid 5)")
    assert "a process of the node itself" in list(diagnosis.trace(other, request()))[-1]
    assert diagnosis.arrives(ours)
    assert diagnosis.arrives(other)


def test_the_doctor_names_what_differs_on_each_node() -> None:
    reports = [
        pb.NodeNetworkReport(node_id="a", node_hostname="core-01"),
        pb.NodeNetworkReport(
            node_id="b",
            node_hostname="core-02",
            problem="nft refused the rules",
            untold=["port/tcp/80"],
            surplus=["port/tcp/81"],
            differences=[
                pb.NetworkDifference(kind="bridge", item="mbr-1", missing=True),
                pb.NetworkDifference(kind="rules", item="chain ip mini x", task_id="t1"),
            ],
        ),
        pb.NodeNetworkReport(node_id="c", problem="node c is not connected to this manager"),
    ]
    assert list(diagnosis.doctor(reports)) == [
        "core-01: as it should be",
        "core-02: 4 differences; nft refused the rules",
        "  told    port/tcp/80: not told, or told otherwise than it is in etcd",
        "  told    port/tcp/81: still told, not in etcd",
        "  kernel  bridge missing: mbr-1",
        "  kernel  rules not planned: chain ip mini x, task t1",
        "c: node c is not connected to this manager",
    ]
    assert list(map(diagnosis.is_well, reports)) == [True, False, False]
