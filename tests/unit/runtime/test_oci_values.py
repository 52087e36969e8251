"""The pure parts of the `oci` runtime."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniworker.runtime.api import ContainerConfig, ImageError, Limits, LogLine, RuntimeFaultError
from miniworker.runtime.oci import (
    bundle,
    capabilities,
    cgroups,
    digest,
    etcfiles,
    explain,
    manifest,
    names,
    seccomp,
    users,
)
from miniworker.runtime.oci.logs import parse_line, tail_offset
from miniworker.runtime.oci.manifest import ImageConfig
from miniworker.runtime.oci.processes import signal_number
from miniworker.runtime.oci.records import ContainerFiles
from miniworker.runtime.oci.registry.auth import Credentials, parse_challenge
from miniworker.runtime.oci.users import Identity

A, B, C = (f"sha256:{char * 64}" for char in "abc")
ROOT = Identity(0, 0, (), "/root")
CONFIG = ContainerConfig(id="0123456789abcdefghijklmno", name="n", image="app:1")
IMAGE = ImageConfig(diff_ids=(), entrypoint=("/entry",), command=("from", "image"))


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, "sha256:../../etc/passwd", "sha512:" + "a" * 128, "a" * 64]
)
def test_only_canonical_digests_become_file_names(text: str) -> None:
    assert not digest.is_digest(text)
    with pytest.raises(ValueError, match="not a sha256 digest"):
        digest.hex_of(text)


def test_chain_ids_follow_the_specification() -> None:
    second = "sha256:" + hashlib.sha256(f"{A} {B}".encode()).hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} {C}".encode()).hexdigest()
    assert digest.chain_ids((A, B, C)) == (A, second, third)
    assert digest.chain_ids(()) == ()


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("whoami", "docker.io/library/whoami:latest", "whoami:latest"),
        ("127.0.0.1:5000/a/b:2", "127.0.0.1:5000/a/b:2", "127.0.0.1:5000/a/b:2"),
        (f"team/app@{A}", f"docker.io/team/app@{A}", f"team/app@{A}"),
    ],
)
def test_names_in_full_and_short(text: str, full: str, familiar: str) -> None:
    name = names.parse(text)
    assert (name.full, name.familiar, names.shorten(full)) == (full, familiar, familiar)


def test_a_bad_name_is_an_image_error() -> None:
    with pytest.raises(ImageError, match=r"must be lowercase: 'team/BAD'"):
        names.parse("team/BAD")


def test_an_index_without_this_platform_lists_what_it_has() -> None:
    entry = {"digest": A, "size": 1, "platform": {"os": "linux", "architecture": "s390x"}}
    with pytest.raises(ImageError, match="no image for linux/amd64; the index has linux/s390x"):
        manifest.for_this_platform({"manifests": [entry]}, machine="amd64")
    assert manifest.for_this_platform({"manifests": [entry]}, machine="s390x").digest == A


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"rootfs": {"diff_ids": ["md5:1"]}}', b'{"config": {"Env": "x"}}']
)
def test_broken_configurations_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        manifest.image_config(data)


def test_creation_times_keep_their_nanoseconds() -> None:
    config = manifest.image_config(b'{"created": "2024-01-02T03:04:05.123456789Z"}')
    assert config.created_at_ns == 1_704_164_645_123_456_789


def test_old_and_foreign_manifests_are_refused() -> None:
    with pytest.raises(ImageError, match="schema version 2"):
        manifest.manifest({"schemaVersion": 1})
    foreign = {
        "digest": A,
        "size": 1,
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
    with pytest.raises(ImageError, match="not distributed"):
        manifest.manifest({"schemaVersion": 2, "config": {"digest": B, "size": 1}, "layers": [foreign]})


# --- arguments, environment ---


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ((), (), ("/entry", "from", "image")),
        ((), ("mine",), ("/entry", "mine")),
        (("sh",), (), ("sh",)),
        (("sh",), ("-c", "x"), ("sh", "-c", "x")),
    ],
)
def test_entrypoint_command_and_arguments(
    command: tuple[str, ...], args: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert bundle.arguments(replace(CONFIG, command=command, args=args), IMAGE) == expected


def test_nothing_to_run_is_an_error() -> None:
    with pytest.raises(RuntimeFaultError, match="no command specified"):
        bundle.arguments(CONFIG, ImageConfig(diff_ids=()))


def test_a_relative_working_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFaultError, match="'app' is invalid"):
        bundle.build(replace(CONFIG, dir="app"), IMAGE, ROOT, files=ContainerFiles(tmp_path), unified=True)


def test_version_two_hosts_get_a_control_group_namespace(tmp_path: Path) -> None:
    def kinds(unified: bool) -> set[str]:
        document = bundle.build(CONFIG, IMAGE, ROOT, files=ContainerFiles(tmp_path), unified=unified)
        return {namespace["type"] for namespace in document["linux"]["namespaces"]}

    assert kinds(True) - kinds(False) == {"cgroup"}


def test_the_given_network_namespace_is_joined(tmp_path: Path) -> None:
    config = replace(CONFIG, netns=Path("/run/netns/x"))
    document = bundle.build(config, IMAGE, ROOT, files=ContainerFiles(tmp_path), unified=False)
    assert {"type": "network", "path": "/run/netns/x"} in document["linux"]["namespaces"]


def test_other_users_than_root_hold_no_capability(tmp_path: Path) -> None:
    document = bundle.build(
        CONFIG, IMAGE, Identity(1000, 1000, (4,), "/"), files=ContainerFiles(tmp_path), unified=False
    )
    assert set(document["process"]["capabilities"]) == {"bounding"}


# --- capabilities, seccomp ---


def test_capabilities_as_docker_computes_them() -> None:
    assert capabilities.effective((), ()) == capabilities.DEFAULT
    assert capabilities.effective(("net_admin",), ("CAP_CHOWN",)) == tuple(
        sorted({*capabilities.DEFAULT, "CAP_NET_ADMIN"} - {"CAP_CHOWN"})
    )
    assert capabilities.effective(("ALL",), ("SYS_ADMIN",)) == tuple(
        sorted(capabilities.KNOWN - {"CAP_SYS_ADMIN"})
    )
    with pytest.raises(RuntimeFaultError, match="invalid capability: CAP_FLY"):
        capabilities.effective(("fly",), ())


def test_seccomp_opens_with_capabilities_only() -> None:
    def allowed(*held: str) -> set[str]:
        rules = seccomp.profile(held, machine="x86_64")["syscalls"]
        return {
            name
            for rule in rules
            if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
            for name in rule["names"]
        }

    assert {"read", "execve", "clock_gettime"} <= allowed()
    assert (
        not {"mount", "bpf", "reboot", "ptrace_x", "setns", "clone", "io_uring_setup", "keyctl"} & allowed()
    )
    assert {"mount", "setns", "clone"} <= allowed("CAP_SYS_ADMIN")
    assert "chroot" in allowed("CAP_SYS_CHROOT")


def test_clone_may_make_no_namespace_without_the_capability() -> None:
    rules = seccomp.profile((), machine="x86_64")["syscalls"]
    (clone,) = [rule for rule in rules if rule["names"] == ["clone"]]
    assert clone["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    (clone3,) = [rule for rule in rules if rule["names"] == ["clone3"]]
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


# --- users ---

PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\nbroken:x:y\n"
GROUP = "root:x:0:\nweb:x:44:\nextra:x:55:other,web\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (), "/root")),
        ("web", Identity(33, 44, (55,), "/srv")),
        ("33", Identity(33, 44, (55,), "/srv")),
        ("web:extra", Identity(33, 55, (), "/srv")),
        ("77", Identity(77, 0, (), "/")),
        ("77:88", Identity(77, 88, (), "/")),
    ],
)
def test_users_are_looked_up_as_docker_does(user: str, expected: Identity) -> None:
    assert users.identify(user, (), passwd=PASSWD, group=GROUP) == expected


@pytest.mark.parametrize("user", ["ghost", "web:ghosts", "broken", "99999999999"])
def test_unknown_users_and_groups_are_refused(user: str) -> None:
    with pytest.raises(RuntimeFaultError):
        users.identify(user, (), passwd=PASSWD, group=GROUP)


# --- small texts ---


def test_resolv_conf_leaves_out_the_hosts_own_resolver() -> None:
    host = "nameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch lan\n"
    assert etcfiles.resolv_conf((), host=host) == "nameserver 9.9.9.9\nsearch lan\n"


def test_resolv_conf_keeps_of_the_host_what_is_not_given() -> None:
    host = "nameserver 9.9.9.9\nsearch lan\noptions edns0\n"
    given = etcfiles.resolv_conf(("10.0.0.1",), host=host, options=("timeout:1",))
    assert given == "nameserver 10.0.0.1\nsearch lan\noptions timeout:1\n"
    assert etcfiles.resolv_conf((), host=host, search=(".",)) == "nameserver 9.9.9.9\noptions edns0\n"


def test_the_dns_of_the_networks_is_the_only_name_server() -> None:
    host = "nameserver 9.9.9.9\nsearch lan\noptions edns0\n"
    given = etcfiles.resolv_conf(("8.8.8.8",), host=host, networks_dns="10.0.1.1")
    assert given == "nameserver 10.0.1.1\nsearch lan\noptions edns0\noptions ndots:0\n"
    asked = etcfiles.resolv_conf((), host=host, options=("ndots:2",), networks_dns="10.0.1.1")
    assert asked == "nameserver 10.0.1.1\nsearch lan\noptions ndots:2\n"


def test_challenges() -> None:
    challenge = parse_challenge('Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"')
    assert challenge is not None
    assert challenge.parameters == {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"}
    assert parse_challenge("Negotiate") is None


def test_credentials_do_not_show_their_password() -> None:
    assert "secret" not in repr(Credentials("ann", "secret"))


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("SIGNOPE", None), ("0", None)],
)
def test_signals(text: str, number: int | None) -> None:
    assert signal_number(text) == number


def test_runtime_complaints_lose_their_prefixes() -> None:
    text = (
        'time="x" level=warning msg="noise"\n'
        'time="x" level=error msg="runc create failed: unable to start container process: '
        'exec: \\"foo\\": executable file not found in $PATH"\n'
    )
    assert explain.explain(text) == 'exec: "foo": executable file not found in $PATH'
    assert explain.explain("first\nlast line\n") == "last line"


# --- logs ---


def test_log_lines() -> None:
    line = parse_line(b"2026-11-23T20:41:40.230995310+00:00 stdout F hi there")
    assert line == LogLine("stdout", 1_795_466_500_230_995_310, b"hi there")
    partial = parse_line(b"2026-11-23T20:41:40.000000000+01:00 stderr P half")
    assert partial is not None
    assert (partial.stream, partial.partial) == ("stderr", True)


@pytest.mark.parametrize("line", [b"", b"garbage", b"x stdout F y", b"2026-11-23T20:41:40.1+00:00 stdin F y"])
def test_what_conmon_did_not_write_is_skipped(line: bytes) -> None:
    assert parse_line(line) is None


@given(st.lists(st.binary(max_size=70_000).filter(lambda b: b"\n" not in b), max_size=6), st.integers(0, 8))
def test_tail_finds_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], count: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    data = b"".join(line + b"\n" for line in lines)
    path.write_bytes(data)
    with path.open("rb") as file:
        offset, found = tail_offset(file, count)
    assert found == min(count, len(lines))
    assert data[offset:] == b"".join(line + b"\n" for line in lines[len(lines) - found :])


def test_a_line_in_several_records_is_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    records = [b"t stdout F one\n", b"t stdout P tw\n", b"t stdout F o\n", b"t stdout P three\n"]
    path.write_bytes(b"".join(records))
    with path.open("rb") as file:
        for count, begin in ((0, 4), (1, 1), (2, 0), (3, 0)):
            assert tail_offset(file, count)[0] == len(b"".join(records[:begin])), count


# --- control groups ---

EVERY_LIMIT = Limits(nano_cpus=500_000_000, memory_bytes=64 << 20, pids=50, swap_bytes=1 << 20)


@pytest.mark.parametrize("unified", [False, True])
def test_limits_are_told_alike_for_both_versions(unified: bool) -> None:
    told = cgroups.resources(EVERY_LIMIT, unified=unified)
    assert told["cpu"] == {"quota": 50_000, "period": 100_000}
    assert told["memory"] == {"limit": 64 << 20, "swap": 65 << 20}  # runc subtracts the memory for version 2
    assert told["pids"] == {"limit": 50}
    assert cgroups.resources(Limits(), unified=unified).keys() == {"devices"}


def test_swappiness_is_version_1s_alone() -> None:
    assert cgroups.resources(Limits(swappiness=0))["memory"] == {"swappiness": 0}
    limited = cgroups.resources(Limits(memory_bytes=4 << 20, swappiness=60))
    assert limited["memory"] == {"limit": 4 << 20, "swappiness": 60}
    with pytest.raises(RuntimeFaultError, match="memory-swappiness needs cgroup v1"):
        cgroups.resources(Limits(swappiness=60), unified=True)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("memory/mini/c1/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
        ("mini/c1/memory.events", "low 0\nhigh 0\nmax 9\noom 1\noom_kill {}\noom_group_kill 0\n"),
    ],
    ids=["v1", "v2"],
)
def test_out_of_memory_is_seen_in_both_versions(tmp_path: Path, file: str, text: str) -> None:
    assert not cgroups.oom_killed("c1", tmp_path)
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text.format(0))
    assert not cgroups.oom_killed("c1", tmp_path)
    path.write_text(text.format(2))
    assert cgroups.oom_killed("c1", tmp_path)


# --- platforms ---


def test_the_platforms_of_an_index_without_its_attestations() -> None:
    entries = [("linux", "amd64"), ("linux", "arm64"), ("linux", "arm64"), ("unknown", "unknown"), None]
    index = {
        "manifests": [
            {"platform": {"os": pair[0], "architecture": pair[1]}} if pair else {} for pair in entries
        ]
    }
    assert manifest.platforms(index) == (("linux", "amd64"), ("linux", "arm64"))
    assert manifest.platforms({}) == ()
    assert manifest.platforms_of_config(b'{"os": "linux", "architecture": "arm"}') == (("linux", "arm"),)
    assert manifest.platforms_of_config(b"{}") == ()
