"""What is inside a container of the `oci` runtime, and what survives its keepers. Real runc, conmon and overlayfs."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from miniworker.runtime.api import (
    ContainerConfig,
    ContainerStatus,
    Limits,
    LogQuery,
    NoSuchContainerError,
    RuntimeFaultError,
)
from miniworker.runtime.oci import cgroups, overlay
from miniworker.runtime.oci.open import find_programs, open_oci
from miniworker.runtime.oci.runtime import OciRuntime
from miniworker.runtime.oci.settings import OciSettings
from support import images
from support.images import File, Image
from support.runtimes import RUNS, OpenRuntime, chunks

pytestmark = pytest.mark.root

IMAGE = "busybox:latest"


@pytest.fixture(autouse=True)
async def loaded(runtime: OciRuntime, tmp_path: Path) -> None:
    """An image whose configuration says something on everything."""
    image = images.busybox(
        IMAGE, Env=["FROM_IMAGE=1", "BOTH=image", "DROPPED=1"], WorkingDir="/srv/app", User="web", Cmd=["pwd"]
    )
    await _load(runtime, tmp_path, image)


async def _load(runtime: OciRuntime, folder: Path, image: Image) -> None:
    await runtime.images.load(chunks(images.write_docker_archive(folder / "image.tar", image)))


async def _run(runtime: OciRuntime, script: str, **changes: Any) -> tuple[int, str]:
    """Exit code and output of a shell script in a container of its own."""
    given = {"id": "c1", "name": "c1", "image": IMAGE, "command": ("sh", "-c", script), **changes}
    config = ContainerConfig(**given)
    await runtime.create(config)
    await runtime.start(config.id)
    done = await runtime.wait(config.id)
    text = b"\n".join([line.data async for batch in runtime.logs(config.id) for line in batch]).decode()
    await runtime.remove(config.id)
    return done.code, text


async def test_the_images_command_runs_in_its_directory(runtime: OciRuntime) -> None:
    await runtime.create(ContainerConfig(id="c", name="c", image=IMAGE))
    await runtime.start("c")
    assert (await runtime.wait("c")).code == 0
    assert [line.data async for batch in runtime.logs("c") for line in batch] == [b"/srv/app"]


async def test_environment(runtime: OciRuntime) -> None:
    _, text = await _run(runtime, "env", id="a" * 25, env=("BOTH=service", "DROPPED", "NEW=x=y"))
    values = dict(line.split("=", 1) for line in text.splitlines())
    assert values["FROM_IMAGE"] == "1"
    assert values["BOTH"] == "service"
    assert values["NEW"] == "x=y"
    assert "DROPPED" not in values
    assert values["HOSTNAME"] == "a" * 12
    assert values["HOME"] == "/home/web"
    assert values["PATH"].endswith("/usr/bin:/sbin:/bin")


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        ("", (), "uid=1000(web) gid=1000(web) groups=4(adm)"),
        ("root", (), "uid=0(root) gid=0(root)"),
        ("0:web", (), "uid=0(root) gid=1000(web)"),
        ("4321:8765", (), "uid=4321 gid=8765"),
        ("web", ("65534",), "uid=1000(web) gid=1000(web) groups=4(adm),65534(nogroup)"),
    ],
)
async def test_users(runtime: OciRuntime, user: str, groups: tuple[str, ...], expected: str) -> None:
    _, text = await _run(runtime, "id", user=user, groups=groups)
    assert text.replace(" groups=0(root)", "") == expected


async def test_an_unknown_user_is_named_and_leaves_nothing(runtime: OciRuntime, tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeFaultError, match="unable to find user ghost: no matching entries in passwd file"
    ):
        await _run(runtime, "id", user="ghost")
    assert list((tmp_path / "data" / "containers").iterdir()) == []


async def test_the_files_of_etc(runtime: OciRuntime) -> None:
    _, text = await _run(
        runtime,
        "cat /etc/hosts /etc/hostname /etc/resolv.conf; hostname",
        hostname="web-1",
        hosts=(("10.0.0.5", "db database"),),
        dns=("10.0.0.1",),
    )
    lines = text.splitlines()
    assert "127.0.0.1\tlocalhost" in lines
    assert "10.0.0.5\tdb database" in lines
    assert lines[-3:] == ["web-1", "nameserver 10.0.0.1", "web-1"]


async def test_default_capabilities_and_changes_to_them(runtime: OciRuntime) -> None:
    show = "grep CapEff /proc/self/status | cut -f2"
    assert (await _run(runtime, show, user="root"))[1] == "00000000a80425fb"  # as `docker run` gives
    assert (await _run(runtime, show))[1] == "0000000000000000"
    dropped = await _run(runtime, show, user="root", cap_drop=("ALL",), cap_add=("NET_BIND_SERVICE",))
    assert dropped[1] == "0000000000000400"


async def test_the_kernel_is_guarded(runtime: OciRuntime) -> None:
    code, text = await _run(
        runtime, "unshare -r true; mount -t tmpfs none /tmp; echo 1 > /proc/sys/vm/swappiness", user="root"
    )
    assert code != 0
    assert "unshare" in text
    _, seccomp = await _run(
        runtime, "grep Seccomp: /proc/self/status; cat /proc/interrupts /sys/firmware/* 2>/dev/null | wc -c"
    )
    assert seccomp.splitlines() == ["Seccomp:\t2", "0"]


async def test_devices(runtime: OciRuntime) -> None:
    script = (
        "echo x > /dev/null; head -c 4 /dev/urandom | wc -c; test -c /dev/ptmx; test -d /dev/mqueue;"
        "df -m /dev/shm | tail -1 | awk '{print $2}'; mknod /tmp/m c 1 1 && head -c 1 /tmp/m"
    )
    code, text = await _run(runtime, script, user="root")
    assert text.splitlines()[:2] == ["4", "64"]
    assert code != 0  # /dev/mem may be made, but not opened


async def test_a_read_only_container(runtime: OciRuntime) -> None:
    _, text = await _run(
        runtime, "touch /x; echo y > /etc/hosts; touch /dev/shm/z && echo fine", read_only=True, user="0"
    )
    assert text.count("Read-only file system") == 2
    assert "fine" in text.splitlines(), "stdout and stderr have no order between them"


async def test_its_own_layer_is_written_and_thrown_away(runtime: OciRuntime) -> None:
    _, text = await _run(runtime, "echo new > /tmp/f; rm /bin/vi; ls /bin/vi; cat /tmp/f", user="0")
    assert "new" in text.splitlines(), "stdout and stderr have no order between them"
    _, text = await _run(runtime, "ls /bin/vi; ls /tmp", user="0")
    assert text == "/bin/vi"


async def test_limits_are_in_the_control_groups(runtime: OciRuntime) -> None:
    limits = Limits(nano_cpus=500_000_000, memory_bytes=64 << 20, pids=50)
    await runtime.create(ContainerConfig(id="limited", name="l", image=IMAGE, command=RUNS, limits=limits))
    await runtime.start("limited")
    group = cgroups.path_of("limited").lstrip("/")
    if cgroups.is_unified():
        files = {"memory.max": str(64 << 20), "pids.max": "50", "cpu.max": "50000 100000"}
        folders = dict.fromkeys(files, cgroups.MOUNT / group)
    else:
        files = {"memory.limit_in_bytes": str(64 << 20), "pids.max": "50", "cpu.cfs_quota_us": "50000"}
        folders = {name: cgroups.MOUNT / name.partition(".")[0] / group for name in files}
    assert {name: (folders[name] / name).read_text().strip() for name in files} == files
    await runtime.remove("limited")
    assert not any(folder.exists() for folder in folders.values())


async def test_running_out_of_memory_is_told(runtime: OciRuntime) -> None:
    await runtime.create(
        ContainerConfig(
            id="oom",
            name="oom",
            image=IMAGE,
            command=("sh", "-c", "tail /dev/zero"),
            limits=Limits(memory_bytes=16 << 20),
        )
    )
    await runtime.start("oom")
    done = await runtime.wait("oom")
    assert done.oom_killed
    assert done.code == 137


async def test_a_second_agent_adopts_what_runs(runtime: OciRuntime, open_runtime: OpenRuntime) -> None:
    config = ContainerConfig(id="kept", name="kept.1", image=IMAGE, command=RUNS, labels={"x": "y"})
    await runtime.create(config)
    pid = await runtime.start("kept")
    await _until_up(runtime, "kept")
    await runtime.close()
    again = await open_runtime()
    (found,) = await again.list()
    assert (found.status, found.pid, found.name, dict(found.labels)) == (
        ContainerStatus.RUNNING,
        pid,
        "kept.1",
        {"x": "y"},
    )
    assert await again.start("kept") == pid
    await again.stop("kept")
    assert (await again.wait("kept")).code == 5


async def test_an_exit_while_no_agent_ran_is_found(runtime: OciRuntime, open_runtime: OpenRuntime) -> None:
    await runtime.create(ContainerConfig(id="e", name="e", image=IMAGE, command=("sh", "-c", "exit 9")))
    await runtime.start("e")
    await runtime.close()
    again = await open_runtime()
    assert (await again.wait("e")).code == 9


async def test_a_container_whose_conmon_was_killed_is_still_watched(runtime: OciRuntime) -> None:
    await runtime.create(ContainerConfig(id="w", name="w", image=IMAGE, command=("sleep", "600")))
    pid = await runtime.start("w")
    conmon = int(runtime._containers.files("w").conmon_pid.read_text())
    os.kill(conmon, signal.SIGKILL)
    (found,) = await runtime.list()
    assert (found.status, found.pid) == (ContainerStatus.RUNNING, pid)
    os.kill(pid, signal.SIGKILL)
    assert (await runtime.wait("w")).code == 255  # its end was seen, its code was not


async def test_half_made_containers_are_cleared(
    runtime: OciRuntime, open_runtime: OpenRuntime, tmp_path: Path
) -> None:
    await runtime.create(ContainerConfig(id="half", name="h", image=IMAGE))
    (tmp_path / "data/containers/half/container.json").unlink()  # as if killed just before it was written
    again = await open_runtime()
    assert await again.list() == ()
    assert list((tmp_path / "data" / "containers").iterdir()) == []
    assert str(tmp_path) not in await asyncio.to_thread(Path("/proc/self/mounts").read_text)


async def test_a_created_container_starts_after_its_mount_is_gone(
    runtime: OciRuntime, open_runtime: OpenRuntime, tmp_path: Path
) -> None:
    await runtime.create(ContainerConfig(id="r", name="r", image=IMAGE, command=("cat", "/etc/passwd")))
    overlay.unmount(runtime._containers.files("r"))  # as after a reboot
    again = await open_runtime()
    await again.start("r")
    assert (await again.wait("r")).code == 0


async def test_layers_hide_and_replace_files_of_those_below(runtime: OciRuntime, tmp_path: Path) -> None:
    lower = {
        "d": images.directory(),
        "d/gone": File(b"1"),
        "d/kept": File(b"2"),
        "opaque": images.directory(),
        "opaque/old": File(b"3"),
        "shared": images.directory(0o1777),
    }
    upper = {
        "d/.wh.gone": File(),
        "opaque": images.directory(),
        "opaque/.wh..wh..opq": File(),
        "opaque/new": File(b"4"),
        "shared/file": File(b"5"),
        "one": File(b"6"),
        "two": File(hardlink="one"),
    }
    image = Image("layers:1", (images.base_layer(), lower, upper), {})
    await _load(runtime, tmp_path, image)
    _, text = await _run(runtime, "ls /d /opaque; stat -c %a /shared; stat -c %h /one", image="layers:1")
    assert text.split() == ["/d:", "kept", "/opaque:", "new", "1777", "2"]


async def test_many_layers_fit_in_one_mount(runtime: OciRuntime, tmp_path: Path) -> None:
    layers = tuple({f"layer{number}": File(str(number).encode())} for number in range(100))
    await _load(runtime, tmp_path, Image("deep:1", (images.base_layer(), *layers), {}))
    _, text = await _run(runtime, "ls / | grep -c layer", image="deep:1")
    assert text == "100"


async def _until_up(runtime: OciRuntime, container_id: str) -> None:
    async for batch in runtime.logs(container_id, LogQuery(follow=True)):
        if any(line.data == b"up" for line in batch):
            return


async def test_a_start_that_was_interrupted_is_begun_anew(
    runtime: OciRuntime, open_runtime: OpenRuntime, tmp_path: Path
) -> None:
    """The agent dies while conmon is creating: its successor must not end up with two, or with none."""
    runc = tmp_path / "runc"
    ready, gate = tmp_path / "ready", tmp_path / "gate"
    os.mkfifo(ready)
    os.mkfifo(gate)
    real = find_programs(OciSettings(tmp_path, tmp_path)).runtime
    runc.write_text(
        f'#!/bin/sh\ncase "$*" in *create*) echo > {ready}; cat {gate};; esac\nexec {real} "$@"\n'
    )
    runc.chmod(0o755)
    slow = await open_oci(OciSettings(tmp_path / "data", tmp_path / "run", binary=str(runc)))
    await slow.create(ContainerConfig(id="i", name="i", image=IMAGE, command=("sh", "-c", "exit 4")))
    starting = asyncio.ensure_future(slow.start("i"))
    await asyncio.to_thread(ready.read_text)  # `runc create` has begun, and stands still
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await slow.close()
    again = await open_runtime()
    await again.start("i")
    assert (await again.wait("i")).code == 4


async def test_names_are_written_anew_where_a_running_container_sees_them(runtime: OciRuntime) -> None:
    await runtime.create(
        ContainerConfig(id="c", name="c", image=IMAGE, command=("sleep", "600"), dns=("10.0.0.1",))
    )
    await runtime.start("c")
    changed = ContainerConfig(
        id="c",
        name="c",
        image=IMAGE,
        dns=("10.0.0.1",),
        networks_dns="10.0.1.1",
        hosts=(("10.0.1.5", "web"),),
    )
    await runtime.write_names(changed)
    seen = await runtime.exec("c", ("cat", "/etc/resolv.conf", "/etc/hosts"), timeout_ns=10_000_000_000)
    assert b"nameserver 10.0.1.1\n" in seen.output
    assert b"nameserver 10.0.0.1\n" not in seen.output
    assert b"10.0.1.5\tweb\n" in seen.output
    await runtime.remove("c")
    with pytest.raises(NoSuchContainerError):
        await runtime.write_names(changed)
