"""The parts of the client that need no server: endpoints, statuses, headers, the schema."""

from __future__ import annotations

import pytest
from minicommon import errors
from minictl.client import codec, endpoint, generate, headers, messages, status


@pytest.mark.parametrize(
    ("text", "path", "host", "port"),
    [
        ("", "/run/mini/mini.sock", "", 0),
        ("unix:///tmp/x.sock", "/tmp/x.sock", "", 0),
        ("tcp://manager", "", "manager", 2378),
        ("tcp://manager:99", "", "manager", 99),
        ("manager:99", "", "manager", 99),
        ("tcp://[fd00::1]:99", "", "fd00::1", 99),
        ("tcp://[fd00::1]", "", "fd00::1", 2378),
    ],
)
def test_endpoint(text: str, path: str, host: str, port: int) -> None:
    parsed = endpoint.parse(text, {})
    assert (parsed.path, parsed.host, parsed.port) == (path, host, port)


def test_certificates_come_from_the_environment_or_from_flags() -> None:
    parsed = endpoint.parse("tcp://m", {"MINI_CERT_PATH": "/certs"}, key="/other/key.pem")
    assert (parsed.ca, parsed.certificate, parsed.key) == (
        "/certs/ca.pem",
        "/certs/cert.pem",
        "/other/key.pem",
    )
    assert endpoint.parse("tcp://m", {"HOME": "/home/me"}).ca == "/home/me/.mini/ca.pem"


@pytest.mark.parametrize("text", ["unix://relative", "http://x", "tcp://", "tcp://h:0", "tcp://h:x", "h:"])
def test_bad_endpoint(text: str) -> None:
    with pytest.raises(endpoint.HostError, match="invalid host"):
        endpoint.parse(text, {})


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (3, errors.InvalidArgumentError),
        (5, errors.NotFoundError),
        (6, errors.AlreadyExistsError),
        (7, errors.PermissionDeniedError),
        (9, errors.FailedPreconditionError),
        (10, errors.ConflictError),
        (12, status.UnimplementedError),
        (14, errors.UnavailableError),
        (99, status.RemoteError),
    ],
)
def test_status(code: int, kind: type[errors.MiniError]) -> None:
    error = status.error_for(code, "why")
    assert type(error) is kind
    assert str(error) == "why"


@pytest.mark.parametrize(
    ("text", "decoded"),
    [("plain", "plain"), ("100%25 %C3%A4%0A", "100% ä\n"), ("50% off %", "50% off %"), ("%zz%41", "%zzA")],
)
def test_percent_decode(text: str, decoded: str) -> None:
    assert status.percent_decode(text) == decoded


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"\xff\xff\xff\xff\xff\xff\xff", "longer than 32 bits"),
        (b"\xff", "middle of a number"),
        (b"\x00\x05ab", "middle of a string"),
        (b"\xfe", "is in no table"),
        (b"\x80", "is in no table"),
        (b"\x3f\xe2\x1f", "at most 4096 are allowed"),
        (b"\x00\x81\x00\x00", "wrong padding"),
    ],
)
def test_bad_headers(block: bytes, message: str) -> None:
    with pytest.raises(headers.HeaderError, match=message):
        headers.Decoder().decode(block)


@pytest.mark.parametrize(
    "data", [b"\x0a\x05ab", b"\x0a", b"\x08", b"\x0b", b"\x0a\x01\xff", b"\x08\x01", b"\xff" * 12]
)
def test_malformed_messages(data: bytes) -> None:
    with pytest.raises(codec.Malformed):
        messages.ServiceSpec.FromString(data)


def test_unknown_fields_are_skipped() -> None:
    assert messages.GetRequest.FromString(b"\x0a\x01x\xfa\x01\x02hi\xf8\x01\x05\xfd\x01abcd").ref == "x"


def test_wrong_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="GetRequest has no field 'nope'"):
        messages.GetRequest(nope=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="no message or enum Nope"):
        messages.Nope  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="cannot be assigned"):
        messages.ServiceSpec().task = messages.TaskSpec()  # type: ignore[misc]


def test_the_schema_is_up_to_date() -> None:
    assert generate.TARGET.read_text() == generate.render()
