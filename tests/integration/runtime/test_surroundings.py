"""What a container is given besides its program: each option, seen from inside the container. Real runc."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from miniworker.runtime.api import (
    ContainerConfig,
    Device,
    Limits,
    LogLimits,
    LogQuery,
    Mount,
    MountKind,
    RuntimeFaultError,
    Ulimit,
    VolumeError,
)
from miniworker.runtime.oci import capabilities, cgroups
from miniworker.runtime.oci.open import open_oci
from miniworker.runtime.oci.runtime import OciRuntime
from miniworker.runtime.oci.settings import OciSettings
from support import images
from support.images import File, Image
from support.runtimes import OpenRuntime, chunks

pytestmark = pytest.mark.root

IMAGE = "busybox:latest"


@pytest.fixture(autouse=True)
async def loaded(runtime: OciRuntime, tmp_path: Path) -> None:
    """An image with a directory that a volume may be filled from."""
    content = {"data": images.directory(0o750, uid=1000), "data/seed": File(b"grown\n", uid=1000)}
    image = Image(IMAGE, (images.base_layer(), content), {"Cmd": ["sh"]})
    await runtime.images.load(chunks(images.write_docker_archive(tmp_path / "image.tar", image)))


async def _run(runtime: OciRuntime, script: str, **changes: Any) -> str:
    """The output of a shell script in a container of its own."""
    given = {"id": "c1", "name": "c1", "image": IMAGE, "command": ("sh", "-c", script), **changes}
    config = ContainerConfig(**given)
    try:
        await runtime.create(config)
        await runtime.start(config.id)
        await runtime.wait(config.id)
        return b"\n".join([line.data async for batch in runtime.logs(config.id) for line in batch]).decode()
    finally:
        await runtime.remove(config.id)


async def test_an_init_is_the_first_process_and_the_program_its_child(runtime: OciRuntime) -> None:
    text = await _run(runtime, "cat /proc/1/comm; echo $$; exit 0", init=True)
    comm, pid = text.split()
    assert comm == "docker-init"
    assert int(pid) > 1


async def test_an_init_that_the_node_lacks_is_asked_for(runtime: OciRuntime, tmp_path: Path) -> None:
    other = await open_oci(OciSettings(tmp_path / "other", tmp_path / "run2"))
    await other.images.load(chunks(tmp_path / "image.tar"))
    other._node = replace(other._node, init="")
    with pytest.raises(RuntimeFaultError, match="--init needs an init on the node"):
        await _run(other, "true", init=True)
    await other.close()


async def test_a_terminal(runtime: OciRuntime) -> None:
    assert await _run(runtime, "test -t 1 && echo $TERM", tty=True) == "xterm\r"
    assert await _run(runtime, "test -t 1 || echo pipe") == "pipe"


async def test_kernel_settings_of_its_own_namespaces(runtime: OciRuntime) -> None:
    sysctls = {"net.core.somaxconn": "77", "kernel.msgmax": "9999"}
    text = await _run(runtime, "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax", sysctls=sysctls)
    assert text.split() == ["77", "9999"]


async def test_limits_of_its_processes(runtime: OciRuntime) -> None:
    ulimits = (Ulimit("nofile", 64, 128), Ulimit("core", 0, 0))
    assert (await _run(runtime, "ulimit -Sn; ulimit -Hn; ulimit -c", ulimits=ulimits)).split() == [
        "64",
        "128",
        "0",
    ]


async def test_names_of_hosts_and_of_servers(runtime: OciRuntime) -> None:
    text = await _run(
        runtime,
        "tail -1 /etc/hosts; cat /etc/resolv.conf",
        hosts=(("10.9.8.7", "db"),),
        dns=("10.0.0.1", "10.0.0.2"),
        dns_search=("a.example", "b.example"),
        dns_options=("ndots:2",),
    )
    assert text.splitlines() == [
        "10.9.8.7\tdb",
        "nameserver 10.0.0.1",
        "nameserver 10.0.0.2",
        "search a.example b.example",
        "options ndots:2",
    ]


async def test_shared_memory_and_the_oom_score(runtime: OciRuntime) -> None:
    script = "df -k /dev/shm | tail -1 | awk '{print $2}'; cat /proc/self/oom_score_adj"
    assert (await _run(runtime, script, shm_bytes=5 << 20, oom_score_adj=500)).split() == ["5120", "500"]


async def test_swap_is_limited_besides_memory(runtime: OciRuntime) -> None:
    limits = Limits(memory_bytes=64 << 20, swap_bytes=32 << 20)
    await runtime.create(
        ContainerConfig(id="s", name="s", image=IMAGE, command=("sleep", "600"), limits=limits)
    )
    await runtime.start("s")
    group = cgroups.path_of("s").lstrip("/")
    if cgroups.is_unified():
        assert (cgroups.MOUNT / group / "memory.swap.max").read_text().strip() == str(32 << 20)
    else:
        both = (cgroups.MOUNT / "memory" / group / "memory.memsw.limit_in_bytes").read_text()
        assert both.strip() == str(96 << 20)
    await runtime.remove("s")


async def test_a_bind_mount(runtime: OciRuntime, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    source = str(tmp_path / "shared")
    mounts = (
        Mount(MountKind.BIND, "/rw", source),
        Mount(MountKind.BIND, "/ro", source, read_only=True),
    )
    text = await _run(runtime, "echo hello > /rw/f; cat /ro/f; touch /ro/g", mounts=mounts)
    assert text == "hello\ntouch: /ro/g: Read-only file system"
    assert (tmp_path / "shared/f").read_text() == "hello\n"


async def test_a_bind_mount_without_source_is_refused(runtime: OciRuntime, tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeFaultError,
        match='invalid mount config for type "bind": bind source path does not exist: /no/such/place',
    ):
        await _run(runtime, "true", mounts=(Mount(MountKind.BIND, "/x", "/no/such/place"),))
    assert list((tmp_path / "data" / "containers").iterdir()) == []


async def test_a_volume_is_filled_once_and_outlives_its_containers(runtime: OciRuntime) -> None:
    mounts = (Mount(MountKind.VOLUME, "/data", "cache"),)
    first = await _run(
        runtime, "stat -c '%a %u' /data; cat /data/seed; echo more >> /data/seed", mounts=mounts
    )
    assert first.splitlines() == ["750 1000", "grown"]
    assert (await _run(runtime, "cat /data/seed", mounts=mounts)).splitlines() == ["grown", "more"]
    empty = (Mount(MountKind.VOLUME, "/data", "bare", copy=False),)
    assert await _run(runtime, "ls /data", mounts=empty) == ""


async def test_a_volume_without_a_name_goes_with_its_container(runtime: OciRuntime, tmp_path: Path) -> None:
    mounts = (Mount(MountKind.VOLUME, "/data"),)
    assert await _run(runtime, "rm /data/seed; ls /data", mounts=mounts) == ""
    assert await _run(runtime, "ls /data", mounts=mounts) == "seed"
    assert not (tmp_path / "data/volumes").exists()


async def test_a_tmpfs(runtime: OciRuntime) -> None:
    mounts = (
        Mount(MountKind.TMPFS, "/scratch", size_bytes=1 << 20, mode=0o700),
        Mount(MountKind.TMPFS, "/dev/shm", size_bytes=2 << 20),
    )
    script = "stat -c %a /scratch; df -k /scratch /dev/shm | awk 'NR>1 {print $2}'"
    assert (await _run(runtime, script, mounts=mounts)).split() == ["700", "1024", "2048"]


async def test_an_inner_mount_lies_in_the_outer_one_whatever_their_order(
    runtime: OciRuntime, tmp_path: Path
) -> None:
    (tmp_path / "outer").mkdir()
    mounts = (
        Mount(MountKind.TMPFS, "/top/inner"),
        Mount(MountKind.BIND, "/top", str(tmp_path / "outer")),
    )
    assert await _run(runtime, "mount | grep -c ' /top'", mounts=mounts) == "2"


async def test_a_link_in_the_image_leads_no_mount_out_of_it(runtime: OciRuntime, tmp_path: Path) -> None:
    """A volume on a link to the node's /etc is filled from the image's /etc, and mounted there."""
    layer = {"out": File(link="/etc")}
    image = Image("links:1", (images.base_layer(), layer), {})
    await runtime.images.load(chunks(images.write_docker_archive(tmp_path / "links.tar", image)))
    mounts = (Mount(MountKind.VOLUME, "/out"),)
    text = await _run(
        runtime, "cat /out/passwd | head -1; mount | grep -c etc", image="links:1", mounts=mounts
    )
    assert text.splitlines()[0].startswith("root:")


@pytest.mark.parametrize("name", ["..", "../../etc", "a/b", ".hidden"])
async def test_a_volume_stays_among_the_volumes(runtime: OciRuntime, name: str) -> None:
    with pytest.raises(RuntimeFaultError, match="includes invalid characters for a local volume name"):
        await _run(runtime, "true", mounts=(Mount(MountKind.VOLUME, "/x", name),))


async def test_a_privileged_container_has_what_the_node_has(runtime: OciRuntime) -> None:
    script = (
        "grep -E '^(CapEff|Seccomp):' /proc/self/status | cut -f2; mount -t tmpfs none /mnt && echo mounted;"
        "test -c /dev/kmsg && echo kmsg; head -c 1 /proc/kcore | wc -c"
    )
    image_has = "mkdir -p /mnt; "
    text = await _run(runtime, image_has + script, privileged=True)
    effective, seccomp, *rest = text.splitlines()
    assert capabilities.of_mask(int(effective, 16)) == capabilities.own()
    assert (seccomp, rest[0]) == ("0", "mounted")
    assert ("kmsg" in rest) is await asyncio.to_thread(Path("/dev/kmsg").exists)
    assert "mounted" not in await _run(runtime, image_has + script)


async def test_one_device_of_the_node(runtime: OciRuntime) -> None:
    script = "head -c 3 /dev/nothing | wc -c; echo x > /dev/nothing"
    readable = (Device("/dev/zero", "/dev/nothing", "r"),)
    text = await _run(runtime, script, devices=readable)
    assert text.splitlines()[0] == "3"
    assert "mknod" not in text
    loop = (Device("/dev/kmsg", "/dev/kmsg", "w"),)
    refused = await _run(runtime, "head -c 1 /dev/kmsg", devices=loop)
    assert "not permitted" in refused or "denied" in refused


async def test_a_device_that_is_not_there(runtime: OciRuntime) -> None:
    for source, words in (("/dev/nosuch", "No such file or directory"), ("/dev/shm", "is not a device node")):
        with pytest.raises(RuntimeFaultError, match=f"error gathering device information.*{words}"):
            await _run(runtime, "true", devices=(Device(source, "/dev/x"),))


async def test_the_nodes_processes(runtime: OciRuntime) -> None:
    script = "test -d /proc/$NODE && echo seen"
    env = (f"NODE={os.getpid()}",)
    assert await _run(runtime, script, env=env, host_pid=True) == "seen"
    assert await _run(runtime, "echo $$") == "1"


async def test_seccomp_and_new_privileges(runtime: OciRuntime) -> None:
    show = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | cut -f2"
    assert (await _run(runtime, show)).split() == ["0", "2"]
    assert (await _run(runtime, show, seccomp_unconfined=True, no_new_privileges=True)).split() == ["1", "0"]


CHATTY = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"


async def test_output_beyond_its_limit_begins_anew_and_a_reader_follows(runtime: OciRuntime) -> None:
    config = ContainerConfig(
        id="c1",
        name="c1",
        image=IMAGE,
        command=("sh", "-c", f"read -r go < /gate/fifo; {CHATTY}"),
        logs=LogLimits(max_bytes=20_000),
        mounts=(Mount(MountKind.VOLUME, "/gate", source="gate"),),
    )
    gate = Path((await runtime.volumes.create_volume("gate", {})).mountpoint)
    os.mkfifo(gate / "fifo")
    await runtime.create(config)
    await runtime.start("c1")
    reading = asyncio.ensure_future(_lines(runtime, follow=True))
    await asyncio.to_thread((gate / "fifo").write_text, "go\n")
    await runtime.wait("c1")
    followed = await reading
    kept = await _lines(runtime)
    assert followed[-1] == kept[-1] == b"line 2999"
    assert len(kept) < 1000
    assert len(followed) >= len(kept)
    numbers = [int(line.split()[1]) for line in followed]
    assert numbers == sorted(set(numbers))
    await runtime.remove("c1")


async def _lines(runtime: OciRuntime, *, follow: bool = False) -> list[bytes]:
    found = runtime.logs("c1", LogQuery(follow=follow))
    return [line.data async for batch in found for line in batch]


async def test_output_may_be_kept_nowhere(runtime: OciRuntime) -> None:
    assert await _run(runtime, CHATTY, logs=LogLimits(keep=False)) == ""


async def test_a_volume_whose_removal_was_broken_off_is_gone_for_the_next_agent(
    runtime: OciRuntime, open_runtime: OpenRuntime, tmp_path: Path
) -> None:
    await runtime.volumes.create_volume("v", {})
    folder = tmp_path / "data" / "volumes"
    (folder / "v").rename(folder / ".going-1")
    assert await runtime.volumes.list_volumes() == ()
    await open_runtime()
    assert list(folder.iterdir()) == []


async def test_a_volume_is_in_use_while_its_container_is_being_made(runtime: OciRuntime) -> None:
    await runtime.volumes.create_volume("v", {})
    with runtime.volumes.given("c9", ["v"]), pytest.raises(VolumeError, match=r"volume is in use - \[c9\]"):
        await runtime.volumes.remove_volume("v")
    assert await runtime.volumes.remove_volume("v") > 0


async def test_a_volume_made_by_hand_grows_from_the_image_while_it_is_empty(runtime: OciRuntime) -> None:
    await runtime.volumes.create_volume("made", {"a": "b"})
    mounts = (Mount(MountKind.VOLUME, "/data", source="made"),)
    look = "cat /data/seed; stat -c %u:%a /data; echo changed > /data/seed"
    assert await _run(runtime, look, mounts=mounts) == "grown\n1000:750"
    assert await _run(runtime, "cat /data/seed", mounts=mounts) == "changed"
    assert (await runtime.volumes.get_volume("made")).labels == {"a": "b"}
