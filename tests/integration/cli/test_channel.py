"""The blocking gRPC client against a real grpc.aio server: unix socket and TLS, both directions, all endings."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from minicommon import errors
from minictl.client import endpoint, messages, status
from minictl.client.channel import Duplex, FastChannel
from miniproto.v1 import control_pb2 as control
from miniproto.v1 import objects_pb2 as objects
from support import canned
from support.cli_tls import Authority
from support.control_server import ControlServer, World

from .conftest import Run


@pytest.fixture
def channel(server: ControlServer, tmp_path: Path) -> Iterator[FastChannel]:
    opened = FastChannel(endpoint.parse(f"unix://{tmp_path}/mini.sock", {}))
    yield opened
    opened.close()


def get(channel: FastChannel, ref: str) -> control.ServiceView:
    view: control.ServiceView = channel.unary("Services/Get", messages.GetRequest(ref=ref))
    return view


def test_one_connection_serves_many_calls(channel: FastChannel) -> None:
    for _ in range(20):
        assert get(channel, "web").service.id == canned.SERVICE_ID
        with pytest.raises(errors.NotFoundError, match="service nope not found"):
            get(channel, "nope")


def test_big_messages_both_ways(channel: FastChannel, world: World) -> None:
    """Longer than every window and frame: 24 MiB up, 24 MiB down."""
    big = "x" * (24 << 20)
    world.services["big"] = canned.service("big")
    world.services["big"].service.spec.labels["big"] = big
    assert get(channel, "big").service.spec.labels["big"] == big
    spec = messages.ServiceSpec(name="up", labels={"big": big})
    channel.unary("Services/Create", messages.CreateServiceRequest(spec=spec))
    assert world.requests[-1].spec.labels["big"] == big
    assert get(channel, "web").service.spec.name == "web"


def test_a_long_list(channel: FastChannel, world: World) -> None:
    world.services = {str(index): canned.service(f"web{index}") for index in range(2000)}
    response = channel.unary("Services/List", messages.ListRequest())
    assert [view.service.spec.name for view in response.services] == [f"web{index}" for index in range(2000)]


def test_messages_of_errors_are_decoded(channel: FastChannel) -> None:
    chunks = iter([messages.LoadImageChunk(data=b"bad archive")])
    with pytest.raises(errors.InvalidArgumentError) as error:
        channel.upload("Images/Load", chunks)
    assert str(error.value) == "not an image archive: 100% wrong\nreally"


def test_upload(channel: FastChannel, world: World) -> None:
    data = bytes(range(256)) * 4096
    response = channel.upload("Images/Load", (messages.LoadImageChunk(data=data) for _ in range(8)))
    assert list(response.loaded) == ["whoami:1", "sha256:" + "0" * 64]
    assert bytes(world.uploaded) == data * 8


def test_an_upload_that_is_refused_early_ends_with_the_refusal(channel: FastChannel) -> None:
    def chunks() -> Iterator[object]:
        yield messages.LoadImageChunk(data=b"bad")
        for _ in range(200):
            yield messages.LoadImageChunk(data=b"x" * (256 << 10))

    with pytest.raises(errors.InvalidArgumentError, match="not an image archive"):
        channel.upload("Images/Load", chunks())
    assert get(channel, "web").service.spec.name == "web"


def test_stream(channel: FastChannel, world: World) -> None:
    world.progress = [control.ServiceProgress(revision=number) for number in range(5)]
    stream = channel.stream("Tasks/WatchService", messages.WatchServiceRequest(ref="web"))
    assert [stream.receive().revision for _ in range(5)] == list(range(5))
    assert stream.receive() is None


def test_waiting_can_time_out_and_go_on(channel: FastChannel, world: World) -> None:
    world.progress = [control.ServiceProgress(revision=1)]
    world.hold_progress = True
    stream = channel.stream("Tasks/WatchService", messages.WatchServiceRequest(ref="web"))
    assert stream.receive(30).revision == 1
    for _ in range(2):
        with pytest.raises(errors.DeadlineError):
            stream.receive(0.01)
    stream.cancel()
    assert world.canceled.wait(30)
    assert get(channel, "web").service.spec.name == "web"


def test_deadline(channel: FastChannel, world: World) -> None:
    """The server is told, too: it cancels the call."""
    world.hold_progress = True
    with pytest.raises(errors.DeadlineError):
        channel.unary("Tasks/WatchService", messages.WatchServiceRequest(ref="web"), timeout=0.05)
    assert world.canceled.wait(30)


def test_a_method_that_the_server_does_not_have(
    channel: FastChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minictl.client import schema

    monkeypatch.setitem(schema.METHODS, "Services/Nope", ("GetRequest", "ServiceView", ""))
    with pytest.raises(status.UnimplementedError):
        channel.unary("Services/Nope", messages.GetRequest())


def test_the_server_goes_away(tmp_path: Path, world: World) -> None:
    world.hold_progress = True
    channel = FastChannel(endpoint.parse(f"unix://{tmp_path}/mini.sock", {}))
    with ControlServer(world, [f"unix:{tmp_path}/mini.sock"]):
        stream = channel.stream("Tasks/WatchService", messages.WatchServiceRequest(ref="web"))
        with pytest.raises(errors.DeadlineError):
            stream.receive(0.05)
    with pytest.raises((errors.UnavailableError, status.CanceledError)):
        stream.receive(30)
    with pytest.raises(endpoint.ConnectError, match="Is mini-worker running"):
        get(channel, "web")
    with ControlServer(world, [f"unix:{tmp_path}/mini.sock"]):
        assert get(channel, "web").service.spec.name == "web"
    channel.close()


def test_something_else_answers(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "mini.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    channel = FastChannel(endpoint.parse(f"unix://{path}", {}))
    with pytest.raises(errors.UnavailableError):
        get(channel, "web")
    channel.close()
    thread.join()
    listener.close()


# --- TLS ---


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def tls_port(authority: Authority, world: World) -> Iterator[int]:
    with ControlServer(world, ["127.0.0.1:0"], credentials=authority.server_credentials()) as running:
        yield running.ports[0]


def test_mutual_tls(authority: Authority, tls_port: int) -> None:
    channel = FastChannel(authority.endpoint(tls_port))
    assert get(channel, "web").service.spec.name == "web"
    channel.close()


def test_big_messages_over_tls(authority: Authority, tls_port: int, world: World) -> None:
    world.services["web"].service.spec.labels["big"] = "y" * (20 << 20)
    channel = FastChannel(authority.endpoint(tls_port))
    assert len(get(channel, "web").service.spec.labels["big"]) == 20 << 20
    data = b"z" * (1 << 20)
    channel.upload("Images/Load", (messages.LoadImageChunk(data=data) for _ in range(12)))
    assert len(world.uploaded) == 12 << 20
    channel.close()


def test_a_server_of_another_authority_is_not_trusted(
    authority: Authority, tls_port: int, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    channel = FastChannel(other.endpoint(tls_port))
    with pytest.raises(endpoint.ConnectError, match="is not to be trusted"):
        get(channel, "web")


def test_a_worker_is_no_manager(authority: Authority, world: World) -> None:
    """Its certificate is of the same authority, but does not have a manager's name."""
    with ControlServer(world, ["127.0.0.1:0"], credentials=authority.server_credentials("worker")) as running:
        channel = FastChannel(authority.endpoint(running.ports[0]))
        with pytest.raises(endpoint.ConnectError, match="is not to be trusted: Hostname mismatch"):
            get(channel, "web")


def test_a_client_of_another_authority_is_refused(
    authority: Authority, tls_port: int, tmp_path: Path
) -> None:
    target = authority.endpoint(tls_port)
    other = Authority(tmp_path / "other").endpoint(tls_port)
    target.certificate, target.key = other.certificate, other.key
    channel = FastChannel(target)
    with pytest.raises(errors.UnavailableError):
        get(channel, "web")
    channel.close()


def test_signals_do_not_lose_what_arrived(channel: FastChannel, world: World) -> None:
    """An interrupted wait can be taken up again."""
    world.progress = [
        control.ServiceProgress(
            revision=1, service=control.ServiceView(service=objects.Service(id="x" * 90000))
        )
    ]
    stream = channel.stream("Tasks/WatchService", messages.WatchServiceRequest(ref="web"))
    previous = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        assert stream.receive().revision == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _exec(channel: FastChannel) -> Duplex:
    call = channel.duplex("Containers/Exec")
    call.send(messages.ExecInput(start=messages.ExecStart(ref="web.1")))
    assert call.receive(30).HasField("started")
    return call


def _typed(data: bytes) -> object:
    return messages.ExecInput(input=messages.StreamInput(data=data))


def test_both_sides_stream_in_any_order(channel: FastChannel, world: World) -> None:
    call = _exec(channel)
    for word in (b"one", b"two"):
        call.send(_typed(word))
        assert call.receive(30).stdout == word
    with pytest.raises(errors.DeadlineError):
        call.receive(0.01)
    call.send(messages.ExecInput(input=messages.StreamInput(end=True)), end=True)
    assert call.receive(30).exited.code == 7
    assert call.receive(30) is None
    assert get(channel, "web").service.spec.name == "web"


def test_much_in_both_directions_at_once_blocks_neither(channel: FastChannel) -> None:
    """More than all windows together: while it sends, the client takes in what makes room for more."""
    call = _exec(channel)
    size = 64 << 10
    for _ in range(64):
        call.send(_typed(b"x" * size))
    call.send(messages.ExecInput(input=messages.StreamInput(end=True)), end=True)
    received = 0
    while not (response := call.receive(30)).HasField("exited"):
        received += len(response.stdout)
    assert received == 64 * size


def test_a_call_that_is_given_up_is_cancelled_there(channel: FastChannel, world: World) -> None:
    _exec(channel).cancel()
    assert world.canceled.wait(30)
    assert get(channel, "web").service.spec.name == "web"


def test_exec_as_a_user_would(minictl: Run, world: World) -> None:
    done = minictl("exec", "-i", "-e", "A=b", "-u", "web", "web.1", "cat", "-n", stdin=b"typed")
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed", "")
    (start,) = world.requests
    assert (start.ref, list(start.options.command), start.options.user) == ("web.1", ["cat", "-n"], "web")
    assert list(start.options.env) == ["A=b"]
    assert start.options.stdin
    assert not start.options.tty
