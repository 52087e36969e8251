"""Hosts for tests and for the demo: network namespaces that behave like machines on one switch.

A host has its own network, mounts, host name, processes and cgroups. Its first process reaps orphans as an init does;
killing it is a power cut: everything that ran on the host is gone, and the kernel removes its mounts with it.

    with Lab("t1", ["core-01", "core-02"]) as lab:
        lab["core-01"].run(["ip", "address"])

`lab["core-01"]` is at 10.77.0.11, the next at .12 and so on; a client without anything on it is `lab.client`, at
10.77.0.99. Standard library only, so that the demo can use it. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

SUBNET = "10.77.0"
"""First three bytes of the switch's /24."""

CLIENT = "client"

_INIT = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
print("ready", flush=True)
while True:
    signal.sigwait({signal.SIGCHLD})
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
"""
"""Runs as process 1 of a host: collects the processes whose parents have gone."""

_SETUP = """
set -e
hostname "$LAB_HOSTNAME"
mount --make-rprivate /
ip link set lo up
mount -t tmpfs -o mode=755 lab-run /run
mount --bind "$LAB_HOSTS" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
while read -r kind target options; do
  umount "$target"
  mount -t "$kind" -o "$options" lab-cgroup "$target"
  if [ "$kind" = cgroup2 ]; then mkdir -p "$target/init"; echo 0 > "$target/init/cgroup.procs"; fi
done < "$LAB_CGROUPS"
exec "$LAB_PYTHON" -I -c "$LAB_INIT"
"""

_ENTER = 'for file in {files}; do echo 0 > "$file"; done; exec "$@"'
"""Moves a process into the host's cgroups before it goes in: from inside, it could not leave what it does not see."""

_CGROUP_CONTROLLERS = frozenset(
    {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"}
    | {"net_cls", "net_prio", "perf_event", "hugetlb", "rdma", "misc"}
)


class Host:
    """One machine of a `Lab`."""

    def __init__(self, lab: Lab, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.directory = lab.directory / name
        self.directory.mkdir()
        self._lab = lab
        self._netns = f"{lab.prefix}-{name}"
        self._cgroups: list[Path] = []
        self._enter = ""
        self._started: list[subprocess.Popen[bytes]] = []
        self._init: subprocess.Popen[str] | None = None
        self._pid = 0

    @property
    def running(self) -> bool:
        """Whether the host has power."""
        return self._init is not None

    def power_on(self) -> None:
        """Plug the host into the switch and start its first process."""
        port = f"p-{self.name}"
        _ip("netns", "add", self._netns)
        _ip(
            "link",
            "add",
            port,
            "netns",
            self._lab.switch,
            "type",
            "veth",
            "peer",
            "eth0",
            "netns",
            self._netns,
        )
        _ip("-n", self._lab.switch, "link", "set", port, "master", "br0", "up")
        _ip("-n", self._netns, "address", "add", f"{self.address}/24", "dev", "eth0")
        # A machine keeps its hardware address when power returns; with another one its neighbours would go on asking
        # the old one for up to a minute (arp(7), `base_reachable_time`).
        _ip("-n", self._netns, "link", "set", "eth0", "address", _hardware_address(self.address))
        _ip("-n", self._netns, "link", "set", "eth0", "up")
        _ip("-n", self._netns, "route", "add", "default", "via", f"{SUBNET}.1")
        self._start_init()

    def _start_init(self) -> None:
        mounts = self._make_cgroups()
        table = self.directory / "cgroups"
        table.write_text("".join(f"{kind} {target} {options}\n" for kind, target, options in mounts))
        environment = {
            **os.environ,
            "LAB_HOSTNAME": self.name,
            "LAB_HOSTS": str(self._lab.directory / "hosts"),
            "LAB_CGROUPS": str(table),
            "LAB_PYTHON": sys.executable,
            "LAB_INIT": _INIT,
        }
        # The outer shell waits until it has been moved into the host's cgroups, so that the view of them begins there.
        unshare = "unshare --mount --uts --pid --cgroup --fork --kill-child --mount-proc"
        with (self.directory / "init.log").open("ab") as log:
            self._init = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self._netns}"),
                    *("sh", "-c", f"read -r _; exec {unshare} sh -c '{_SETUP}'"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )
        for group in self._cgroups:
            (group / "cgroup.procs").write_text(str(self._init.pid))
        assert self._init.stdin is not None
        assert self._init.stdout is not None
        self._init.stdin.write("\n")
        self._init.stdin.flush()
        if self._init.stdout.readline() != "ready\n":
            raise RuntimeError(f"host {self.name} did not start: {self.log('init.log')}")
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        self._pid = int(children[0])
        for group in self._cgroups:  # in cgroup v2 a group with children of its own may hold no process
            (group.parent / "cgroup.procs").write_text(str(self._init.pid))
        files = [
            str(group / ("init/cgroup.procs" if kind == "cgroup2" else "cgroup.procs"))
            for group, (kind, _, _) in zip(self._cgroups, mounts, strict=True)
        ]
        self._enter = _ENTER.format(files=" ".join(files))

    def _make_cgroups(self) -> list[tuple[str, str, str]]:
        """Make the host's own cgroup in every hierarchy; (kind, target, options) of what to mount inside."""
        mounts: list[tuple[str, str, str]] = []
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, target, kind, options = line.split()[:4]
            if kind not in ("cgroup", "cgroup2"):
                continue
            group = Path(target) / self._netns
            group.mkdir(exist_ok=True)
            self._cgroups.append(group)
            if kind == "cgroup2":
                _give_controllers(Path(target))
                mounts.append((kind, target, "rw"))
            else:
                for name in ("cpuset.cpus", "cpuset.mems"):
                    if (group / name).exists():
                        (group / name).write_text((Path(target) / name).read_text())
                words = options.split(",")
                kept = [word for word in words if word in _CGROUP_CONTROLLERS or word.startswith("name=")]
                mounts.append((kind, target, ",".join(kept)))
        return mounts

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on this host, for whoever starts processes by itself."""
        if self._init is None:
            raise RuntimeError(f"host {self.name} has no power")
        flags = ["--mount", "--uts", "--net", "--pid", "--cgroup"]
        return ["sh", "-c", self._enter, "sh", "nsenter", f"--target={self._pid}", *flags, "--", *command]

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end and capture the output; `timeout` in seconds.

        Raises CalledProcessError, with the output in its notes, when `check` and the exit code is not 0.
        """
        done = subprocess.run(
            self.command(command),
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            env={**os.environ, **(env or {})},
        )
        if check and done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, list(command), done.stdout, done.stderr)
            error.add_note(f"on {self.name}:\n{done.stdout}{done.stderr}")
            raise error
        return done

    def start(
        self, command: Sequence[str], *, log: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a long-running process in a session of its own; its output goes to `<directory>/<log>`."""
        with (self.directory / log).open("ab") as output:
            process = subprocess.Popen(
                self.command(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> str:
        """What a process started with `start` has printed so far."""
        return (self.directory / name).read_text(errors="replace")

    def link(self, *, up: bool) -> None:
        """Plug or unplug the cable."""
        _ip("-n", self._lab.switch, "link", "set", f"p-{self.name}", "up" if up else "down")

    def power_off(self) -> None:
        """Cut the power: no process ends cleanly, no connection is closed. The host's files stay."""
        if self._init is None:
            return
        self.link(up=False)
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
        else:  # it did not come up; 0 would mean our own process group
            self._init.kill()
        self._init.wait()
        self._pid = 0
        for process in self._started:
            process.wait()
        self._started.clear()
        for stream in (self._init.stdin, self._init.stdout):
            _close(stream)
        self._init = None
        _ip(
            "-n", self._lab.switch, "link", "delete", f"p-{self.name}"
        )  # or it would be there when power returns
        _ip("netns", "delete", self._netns)
        for group in self._cgroups:
            _remove_cgroup(group)
        self._cgroups.clear()


class Lab:
    """Hosts on one switch, and a client; a context manager that leaves nothing behind.

    `prefix` keeps labs of one machine apart; what an earlier lab of the same prefix left is removed first.
    """

    def __init__(self, prefix: str, hosts: Sequence[str]) -> None:
        self.prefix = prefix
        self.switch = f"{prefix}-switch"
        self._names = tuple(hosts)
        self._temporary = tempfile.TemporaryDirectory(prefix=f"{prefix}-", dir="/var/tmp")
        self.directory = Path(self._temporary.name)
        self.hosts: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    @property
    def client(self) -> Host:
        """A machine on the switch that is no node."""
        return self.hosts[CLIENT]

    def __enter__(self) -> Lab:
        sweep(self.prefix)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def _build(self) -> None:
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.switch, "address", "add", f"{SUBNET}.1/24", "dev", "br0")
        _ip("-n", self.switch, "link", "set", "br0", "up")
        addresses = {name: f"{SUBNET}.{number}" for number, name in enumerate(self._names, 11)}
        addresses[CLIENT] = f"{SUBNET}.99"
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (self.directory / "hosts").write_text("\n".join(lines) + "\n")
        for name, address in addresses.items():
            self.hosts[name] = host = Host(self, name, address)
            host.power_on()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cut every host's power and remove the switch and all files."""
        for host in self.hosts.values():
            host.power_off()
        sweep(self.prefix)
        self._temporary.cleanup()


def sweep(prefix: str) -> None:
    """Remove the namespaces and cgroups that a lab of this prefix left; its processes died with their parent."""
    for netns in _netns_of(prefix):
        _ip("netns", "delete", netns)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind = line.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            for group in Path(target).glob(f"{prefix}-*"):
                _remove_cgroup(group)


def _netns_of(prefix: str) -> list[str]:
    listing = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    names = [line.split()[0] for line in listing.splitlines() if line.strip()]
    return [name for name in names if name.startswith(f"{prefix}-")]


def _give_controllers(root: Path) -> None:
    """Let the children of a cgroup v2 root use its controllers; in the hybrid layout it has none to give."""
    controllers = (root / "cgroup.controllers").read_text().split()
    if controllers:
        (root / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))


def _remove_cgroup(group: Path) -> None:
    """Remove a cgroup and its children; all its processes are dead, so the kernel lets them go in a moment."""
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(directory)


def _hardware_address(address: str) -> str:
    """A locally administered one, of a host's IPv4 address."""
    return ":".join(["02", "4d", *(f"{int(part):02x}" for part in address.split("."))])


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()
