"""What the ingress is compared with: haproxy in tcp mode, and a port that Docker publishes (`docker run -p`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import images
from support.cluster import eventually
from support.hosts import Host

WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
"""What is started on a host ends with the process that entered it for it."""

_IMAGE = "bench:1"

_HAPROXY = """
global
  maxconn 4000
defaults
  mode tcp
  timeout connect 3s
  timeout client 1m
  timeout server 1m
listen web
  bind :{port}
  server task {target}
"""


def start_haproxy(host: Host, *, port: int, target: str) -> None:
    """Lead `port` of the host to `target`, an address and a port; with Debian's defaults: a thread per processor."""
    config = host.directory / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, target=target))
    host.start([*WITH_PARENT, "haproxy", "-f", str(config)], log="haproxy.log")
    eventually(lambda: f":{port} " in host.run(["ss", "-ltn"]).stdout, "haproxy listens")


class Docker:
    """An engine of its own on a host, with nothing of it elsewhere; `close` ends it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._files = host.directory / "docker"
        self._files.mkdir()
        self._socket = f"unix://{self._files}/docker.sock"
        options = (
            f"--host={self._socket}",
            f"--data-root={self._files}/data",
            f"--exec-root={self._files}/run",
            f"--pidfile={self._files}/docker.pid",
        )
        self._process = host.start([*WITH_PARENT, "dockerd", *options], log="dockerd.log")

    def run(self, script: str, arguments: Sequence[str], *, port: int, target: int) -> None:
        """A container that runs a script of Perl, with `target` published as `port`."""
        eventually(lambda: self._docker("version", check=False), "dockerd answers")
        layers = (
            images.base_layer(),
            images.program(images.PERL),
            {"srv/server.pl": images.File(script.encode())},
        )
        image = images.Image(_IMAGE, layers, {"Entrypoint": ["/usr/bin/perl", "/srv/server.pl"]})
        archive = images.write_docker_archive(self._files / "image.tar", image)
        self._docker("load", "--input", str(archive))
        self._docker("run", "--detach", f"--publish={port}:{target}", _IMAGE, *arguments)

    def close(self) -> None:
        """With its containers, whose file systems would else stay mounted."""
        names = self._docker("ps", "--quiet", check=False).split()
        if names:
            self._docker("rm", "--force", *names, check=False)
        self._process.kill()
        self._process.wait()

    def _docker(self, *arguments: str, check: bool = True) -> str:
        done = self._host.run(["docker", f"--host={self._socket}", *arguments], check=check)
        return done.stdout if done.returncode == 0 else ""
