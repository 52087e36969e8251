"""The pure parts of the `docker` runtime: what the Engine is told, and what it tells."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import stat
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
from miniworker.runtime.api import (
    ContainerConfig,
    ContainerStatus,
    Device,
    Exit,
    HealthCheck,
    ImageError,
    Limits,
    LogLimits,
    Mount,
    MountKind,
    RuntimeFaultError,
    Ulimit,
)
from miniworker.runtime.docker import archives, frames, handle, read, repack, translate
from support import images

ETC = Path("/var/lib/mini/docker/etc/t1")
PLAIN = ContainerConfig(id="t1", name="web.1.t1", image="whoami:1")


def told(config: ContainerConfig) -> dict[str, Any]:
    record = translate.record_of(config, HealthCheck())
    return translate.container(config, record, owner="/data", etc=ETC)


def host(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = told(dataclasses.replace(PLAIN, **changes))["HostConfig"]
    return found


def test_a_plain_container_leaves_to_the_image_what_is_the_images() -> None:
    body = told(PLAIN)
    assert "Cmd" not in body
    assert "Entrypoint" not in body
    assert "StopSignal" not in body
    assert body["Hostname"] == "t1"
    assert body["HostConfig"]["NetworkMode"] == "none"
    assert body["Healthcheck"] == {"Test": ["NONE"]}


def test_a_command_replaces_both_of_the_images_and_arguments_only_one() -> None:
    both = told(dataclasses.replace(PLAIN, command=("a",), args=("b",)))
    assert (both["Entrypoint"], both["Cmd"]) == (["a"], ["b"])
    arguments = told(dataclasses.replace(PLAIN, args=("b",)))
    assert "Entrypoint" not in arguments
    assert arguments["Cmd"] == ["b"]


def test_a_namespace_is_joined_by_way_of_its_handle() -> None:
    body = told(dataclasses.replace(PLAIN, netns=Path("/run/mini/netns/t1"), hostname="here"))
    assert body["HostConfig"]["NetworkMode"] == "container:mini-netns-t1"
    assert "Hostname" not in body  # the handle has it
    kept = translate.Record.parse(body["Labels"][translate.RECORD])
    assert (kept.netns, kept.hostname) == ("/run/mini/netns/t1", "here")


def test_labels_are_the_services_and_ours() -> None:
    labels = told(dataclasses.replace(PLAIN, labels={"com.docker.swarm.task.id": "t1"}))["Labels"]
    assert labels["com.docker.swarm.task.id"] == "t1"
    assert (labels[translate.OWNER], labels[translate.TASK]) == ("/data", "t1")


def test_a_record_comes_back_as_it_was() -> None:
    config = dataclasses.replace(PLAIN, labels={"a": "b"}, health=HealthCheck(("CMD", "x"), retries=3))
    record = translate.record_of(config, HealthCheck(interval_ns=7))
    assert record.health == HealthCheck(("CMD", "x"), interval_ns=7, retries=3)
    assert translate.Record.parse(record.text()) == record


@pytest.mark.parametrize(("name", "expected"), [("web.1.t1", "web.1.t1"), ("w", "t1"), ("a/b", "t1")])
def test_a_name_that_the_engine_cannot_take_is_the_id(name: str, expected: str) -> None:
    assert translate.container_name(dataclasses.replace(PLAIN, name=name)) == expected


def test_limits() -> None:
    found = host(limits=Limits(500_000_000, 64 << 20, 50, swap_bytes=1 << 20, swappiness=0))
    assert (found["NanoCpus"], found["Memory"], found["PidsLimit"]) == (500_000_000, 64 << 20, 50)
    assert (found["MemorySwap"], found["MemorySwappiness"]) == (65 << 20, 0)
    assert host(limits=Limits(memory_bytes=1 << 20, swap_bytes=-1))["MemorySwap"] == -1
    assert "MemorySwap" not in host(limits=Limits(memory_bytes=1 << 20))
    assert "PidsLimit" not in host()


def test_mounts() -> None:
    mounts = (
        Mount(MountKind.BIND, "/b", "/src", read_only=True, propagation="rslave", recursive=False),
        Mount(MountKind.VOLUME, "/v", "kept", copy=False),
        Mount(MountKind.TMPFS, "/t", size_bytes=4096, mode=0o700),
    )
    *etc, bind, volume, tmpfs = host(mounts=mounts)["Mounts"]
    assert [each["Target"] for each in etc] == ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
    assert bind == {
        "Type": "bind",
        "Source": "/src",
        "Target": "/b",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave", "NonRecursive": True},
    }
    assert (volume["Source"], volume["VolumeOptions"]) == ("kept", {"NoCopy": True})
    assert tmpfs["TmpfsOptions"] == {"SizeBytes": 4096, "Mode": 0o700}


def test_a_mount_of_the_services_takes_the_place_of_a_file_of_ours() -> None:
    targets = [each["Target"] for each in host(mounts=(Mount(MountKind.BIND, "/etc/hosts", "/h"),))["Mounts"]]
    assert targets == ["/etc/hostname", "/etc/resolv.conf", "/etc/hosts"]


def test_the_rest_of_what_a_container_may_ask_for() -> None:
    found = host(
        cap_add=("NET_ADMIN",),
        cap_drop=("ALL",),
        privileged=True,
        read_only=True,
        host_pid=True,
        groups=("adm",),
        init=True,
        sysctls={"net.core.somaxconn": "7"},
        ulimits=(Ulimit("nofile", 1, -1),),
        oom_score_adj=5,
        shm_bytes=1 << 20,
        devices=(Device("/dev/null", "/dev/x", "r"),),
        seccomp_unconfined=True,
        no_new_privileges=True,
        logs=LogLimits(max_bytes=1000),
    )
    assert (found["CapAdd"], found["CapDrop"], found["Privileged"]) == (["NET_ADMIN"], ["ALL"], True)
    assert (found["ReadonlyRootfs"], found["PidMode"], found["GroupAdd"]) == (True, "host", ["adm"])
    assert (found["Init"], found["OomScoreAdj"], found["ShmSize"]) == (True, 5, 1 << 20)
    assert found["Sysctls"]["net.core.somaxconn"] == "7"
    assert found["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": -1}]
    assert found["Devices"] == [
        {"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}
    ]
    assert found["SecurityOpt"] == ["seccomp=unconfined", "no-new-privileges"]
    assert found["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1000"}}
    assert host(logs=LogLimits(keep=False))["LogConfig"]["Type"] == "none"
    several = host(logs=LogLimits(max_bytes=1000, files=3, compress=True))["LogConfig"]
    assert several["Config"] == {"max-size": "1000", "max-file": "3", "compress": "true"}
    local = host(logs=LogLimits(max_bytes=1000, driver="local"))["LogConfig"]
    assert local == {"Type": "local", "Config": {"max-size": "1000", "max-file": "1", "compress": "false"}}
    assert host(logs=LogLimits(driver="journald"))["LogConfig"] == {"Type": "journald", "Config": {}}


def inspected(status: str, **state: Any) -> dict[str, Any]:
    body = told(dataclasses.replace(PLAIN, labels={"a": "b"}))
    never = "0001-01-01T00:00:00Z"
    return {
        "Id": "f" * 64,
        "Created": "2026-01-02T03:04:05.000000006Z",
        "Path": "sh",
        "Args": ["-c", "true"],
        "Image": "sha256:1",
        "Mounts": [],
        "Config": body | {"Env": ["A=b"]},
        "State": {
            "Status": status,
            "Pid": 7,
            "ExitCode": 3,
            "OOMKilled": True,
            "StartedAt": never,
            "FinishedAt": never,
            **state,
        },
    }


def test_a_container_is_told_as_it_was_asked_for() -> None:
    found = read.container(inspected("running"))
    assert (found.id, found.name, found.image, found.labels) == ("t1", "web.1.t1", "whoami:1", {"a": "b"})
    assert (found.status, found.pid, found.exit) == (ContainerStatus.RUNNING, 7, None)
    assert found.created_at_ns == 1_767_323_045_000_000_006
    assert found.started_at_ns == 0


def test_an_end_is_told_with_its_code() -> None:
    ended = read.container(inspected("exited", FinishedAt="2026-01-02T03:04:05+01:00"))
    assert ended.exit == Exit(3, oom_killed=True, finished_at_ns=1_767_319_445 * 10**9)
    assert ended.pid == 0
    assert read.exit_of(inspected("created")) is None


def test_a_complaint_loses_its_prefixes() -> None:
    said = (
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container "
        'process: exec: "x": executable file not found in $PATH: unknown'
    )
    assert read.plain(said) == 'exec: "x": executable file not found in $PATH'


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


def test_frames_are_split_wherever_they_were_cut() -> None:
    whole = frame(1, b"out") + frame(2, b"error")
    for cut in range(len(whole)):
        first, rest = frames.split(whole[:cut])
        second, end = frames.split(rest + whole[cut:])
        assert [*first, *second] == [("stdout", b"out"), ("stderr", b"error")]
        assert end == b""


async def test_a_frame_that_is_broken_off_is_the_end() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(frame(2, b"all") + frame(1, b"half")[:-1])
    reader.feed_eof()
    assert await frames.read_frame(reader) == ("stderr", b"all")
    assert await frames.read_frame(reader) is None


@pytest.mark.parametrize(
    ("go", "mode"),
    [
        (0o644, stat.S_IFREG | 0o644),
        (1 << 31 | 1 << 20 | 0o777, stat.S_IFDIR | stat.S_ISVTX | 0o777),
        (1 << 27 | 0o777, stat.S_IFLNK | 0o777),
        (1 << 26 | 0o660, stat.S_IFBLK | 0o660),
        (1 << 26 | 1 << 21 | 0o666, stat.S_IFCHR | 0o666),
        (1 << 23 | 0o755, stat.S_IFREG | stat.S_ISUID | 0o755),
    ],
)
def test_modes_of_go(go: int, mode: int) -> None:
    assert archives.mode_of(go) == mode


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_handles_program_is_an_executable_whose_path_follows_its_code(machine: str) -> None:
    program = handle.program(machine)
    entry, size = struct.unpack_from("<Q", program, 24)[0], struct.unpack_from("<Q", program, 64 + 32)[0]
    assert program[:4] == b"\x7fELF"
    assert entry - 0x400000 == 120
    assert size == len(program)
    assert program.endswith(b"/netns\0")


def test_a_machine_without_a_handle_is_told_so() -> None:
    with pytest.raises(RuntimeFaultError, match="not available on riscv64, only on x86_64 and aarch64"):
        handle.image("riscv64")


def test_the_handles_image_is_the_same_every_time() -> None:
    assert handle.image("x86_64") == handle.image("x86_64")
    assert handle.image("x86_64").id != handle.image("aarch64").id


def test_an_oci_archive_becomes_what_docker_save_writes(tmp_path: Path) -> None:
    source = images.write_oci_archive(tmp_path / "oci.tar", images.busybox("a:1"), images.busybox("a:2", X=1))
    target = tmp_path / "work" / "out.tar"
    target.parent.mkdir()
    assert repack.repack(source, target) == ("a:1", "a:2")
    with tarfile.open(target) as out:
        file = out.extractfile("manifest.json")
        assert file is not None
        entries = json.load(file)
        assert [entry["RepoTags"] for entry in entries] == [["a:1"], ["a:2"]]
        layer = out.extractfile(entries[0]["Layers"][0])
        assert layer is not None
        assert images.digest_of(layer.read()).partition(":")[2] in entries[0]["Layers"][0]
        assert len(out.getnames()) == 4  # the layer that both have is there once


def test_an_archive_with_a_damaged_layer_is_refused(tmp_path: Path) -> None:
    config = images.busybox("a:1").configuration()
    buffer = io.BytesIO()
    parts = {
        "c.json": config,
        "layer.tar": b"\x1f\x8bnot gzip",
        "manifest.json": json.dumps(
            [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"]}]
        ).encode(),
    }
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    (tmp_path / "bad.tar").write_bytes(buffer.getvalue())
    with pytest.raises(ImageError, match=r"invalid archive: layer\.tar"):
        repack.repack(tmp_path / "bad.tar", tmp_path / "out.tar")
