"""Keys and certificates on real nodes: autolock, a change of the encryption key and of the root, renewal."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from minicommon.identity import pem
from support.cluster import Cluster, eventually, http_get
from support.hosts import Host, Lab
from support.images import write_tutorial_archives

pytestmark = pytest.mark.root

FIRST, SECOND = "core-01", "core-02"
LOCKED = (
    "Error response from daemon: Swarm is encrypted and needs to be unlocked before it can be used. "
    'Please use "minictl swarm unlock" to unlock it.\n'
)
CERTIFICATE_SECONDS = "20"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if "renew" in request.node.name:
        monkeypatch.setenv("MINI_TEST_CERTIFICATE_SECONDS", CERTIFICATE_SECONDS)
    with Lab(f"k{os.getpid() % 10000}", (FIRST, SECOND)) as lab:
        cluster = Cluster(lab)
        cluster.start(FIRST, SECOND)
        yield cluster
    for daemon in cluster.daemons.values():
        daemon.wait()


def ctl(cluster: Cluster, host: str, *words: str, key: str = "") -> tuple[int, str]:
    done = cluster.ctl(host, *words, check=False, input=f"{key}\n" if key else None)
    return done.returncode, done.stdout + done.stderr


def init(cluster: Cluster, *flags: str) -> str:
    code, output = ctl(cluster, FIRST, "swarm", "init", "--advertise-addr", "10.77.0.11", *flags)
    assert code == 0, output
    return output


def join(cluster: Cluster) -> None:
    token = cluster.ctl(FIRST, "swarm", "join-token", "-q", "worker").stdout.strip()
    cluster.ctl(SECOND, "swarm", "join", "--token", token, "10.77.0.11:2377")


def run_web(cluster: Cluster, tmp_path: Path, *names: str) -> None:
    archive = write_tutorial_archives(tmp_path)["whoami:1"]
    for name in names:
        cluster.ctl(name, "image", "load", "-i", str(archive))
    cluster.ctl(
        FIRST,
        *("service", "create", "--name", "web", "--replicas", str(len(names)), "-p", "8080:4567", "whoami:1"),
    )


def kill_manager(host: Host) -> None:
    (pid,) = host.run(["pgrep", "-f", "bin/mini-manager"]).stdout.split()
    host.run(["kill", "-9", pid])


def until_locked(cluster: Cluster) -> None:
    eventually(lambda: "Swarm: locked" in ctl(cluster, FIRST, "info")[1], "the manager is locked")
    eventually(lambda: ctl(cluster, FIRST, "service", "ls") == (1, LOCKED), "calls are refused")


def until_serving(cluster: Cluster) -> None:
    eventually(lambda: "Swarm: active" in ctl(cluster, FIRST, "info")[1], "the node is active")
    eventually(lambda: ctl(cluster, FIRST, "service", "ls", "-q")[0] == 0, "calls are answered")


def private_keys(directory: Path) -> list[str]:
    """Files with a private key in clear."""
    return sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    )


def test_a_locked_manager(cluster: Cluster, tmp_path: Path) -> None:
    output = init(cluster, "--autolock")
    (key,) = re.findall(r"SWMKEY-1-[A-Za-z0-9+/]{43}\b", output)
    assert "run the `minictl swarm unlock`" in output
    host = cluster.lab[FIRST]
    swarm = host.directory / "data" / "swarm"
    run_web(cluster, tmp_path, FIRST)
    assert ctl(cluster, FIRST, "swarm", "unlock", key=key) == (1, "Error: swarm is not locked\n")
    assert private_keys(swarm) == ["node.key"]  # etcd's are on this disk no more

    kill_manager(host)
    until_locked(cluster)
    assert http_get(host, "http://10.77.0.11:8080/")  # the container runs on
    other = "SWMKEY-1-" + "A" * 43
    assert ctl(cluster, FIRST, "swarm", "unlock", key=other) == (
        1,
        "Error response from daemon: invalid key\n",
    )
    assert "cut off" in ctl(cluster, FIRST, "swarm", "unlock", key=key[:-4])[1]
    assert ctl(cluster, FIRST, "swarm", "unlock", key=key) == (0, "")
    until_serving(cluster)

    # after a boot nothing but the key brings etcd back
    host.power_off()
    cluster.daemons[FIRST].wait()
    host.power_on()
    cluster.start(FIRST)
    until_locked(cluster)
    assert host.run(["pgrep", "-x", "etcd"], check=False).returncode == 1
    assert ctl(cluster, FIRST, "swarm", "unlock", key=key) == (0, "")
    until_serving(cluster)
    assert "web" in ctl(cluster, FIRST, "service", "ls")[1]

    # another key, then none
    rotated = cluster.ctl(FIRST, "swarm", "unlock-key", "--rotate", "-q").stdout.strip()
    assert rotated != key
    assert cluster.ctl(FIRST, "swarm", "unlock-key", "-q").stdout.strip() == rotated
    kill_manager(host)
    until_locked(cluster)
    assert "invalid key" in ctl(cluster, FIRST, "swarm", "unlock", key=key)[1]
    assert ctl(cluster, FIRST, "swarm", "unlock", key=rotated) == (0, "")
    until_serving(cluster)
    assert ctl(cluster, FIRST, "swarm", "update", "--autolock=false") == (0, "Swarm updated.\n")
    assert ctl(cluster, FIRST, "swarm", "unlock-key")[1] == "no unlock key is set\n"
    kill_manager(host)
    until_serving(cluster)
    assert "etcd-pki/client.key" in private_keys(swarm)
    assert SWARM_UPDATED_WITH_KEY.match(cluster.ctl(FIRST, "swarm", "update", "--autolock=true").stdout)


SWARM_UPDATED_WITH_KEY = re.compile(r"Swarm updated\.\n.*SWMKEY-1-", re.DOTALL)


def sessions(cluster: Cluster, name: str) -> int:
    """How many sessions the node has opened so far."""
    return cluster.lab[name].log("mini-worker.log").count("Session opened.")


def test_another_encryption_key_and_another_root(cluster: Cluster, tmp_path: Path) -> None:
    init(cluster)
    join(cluster)
    run_web(cluster, tmp_path, FIRST, SECOND)
    host = cluster.lab[FIRST]
    file = host.directory / "data" / "swarm" / "cluster.key"
    before, tokens = file.read_bytes(), cluster.ctl(FIRST, "swarm", "join-token", "worker").stdout
    output = cluster.ctl(FIRST, "swarm", "update", "--rotate-encryption-key").stdout
    assert output == "Encryption key rotated: everything is under key 1 now.\n"
    assert file.read_bytes() != before
    assert cluster.ctl(FIRST, "swarm", "join-token", "worker").stdout == tokens
    kill_manager(host)
    until_serving(cluster)
    assert cluster.ctl(FIRST, "swarm", "join-token", "worker").stdout == tokens
    # A node is Ready for a while after its manager has gone, so that its session is what tells.
    opened = [2, 2]
    eventually(lambda: [sessions(cluster, name) for name in (FIRST, SECOND)] == opened, "both nodes are back")
    old_root = cluster.ctl(FIRST, "swarm", "ca").stdout
    output = cluster.ctl(FIRST, "swarm", "ca", "--rotate").stdout
    assert "rotated TLS certificates:  2/2 nodes" in output
    assert "rotated CA certificates:   2/2 nodes" in output
    new_root = cluster.ctl(FIRST, "swarm", "ca").stdout
    assert output.endswith(new_root)
    assert new_root != old_root
    assert cluster.ctl(FIRST, "swarm", "join-token", "worker").stdout != tokens
    listed = cluster.ctl(FIRST, "node", "ls", "--format", "{{.Status}} {{.TLSStatus}}").stdout
    assert listed == "Ready Ready\nReady Ready\n"
    for name in (FIRST, SECOND):
        assert (cluster.lab[name].directory / "data" / "swarm" / "root-ca.pem").read_text() == new_root
    cluster.ctl(FIRST, "service", "scale", "web=3")  # both sides still talk
    assert [sessions(cluster, name) for name in (FIRST, SECOND)] == opened  # and no connection was cut


def openssl_root(directory: Path, name: str, *, ca: bool = True) -> tuple[str, str]:
    """The files of a root as an administrator makes one: certificate and key."""
    certificate, key = str(directory / f"{name}.pem"), str(directory / f"{name}-key.pem")
    options = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650")
    files = ("-out", certificate, "-keyout", key)
    kind = f"basicConstraints=critical,CA:{'TRUE' if ca else 'FALSE'}"
    subprocess.run(
        ["openssl", "req", "-x509", *options, "-subj", f"/CN={name}", "-addext", kind, *files],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_a_root_of_ones_own(cluster: Cluster, tmp_path: Path) -> None:
    """Made with openssl, given by file; then what is none is refused and changes nothing."""
    init(cluster)
    join(cluster)
    eventually(lambda: ctl(cluster, FIRST, "node", "ls")[1].count("Ready") == 2, "both nodes are there")
    own, key = openssl_root(tmp_path, "our-root")
    _, other_key = openssl_root(tmp_path, "another")
    leaf, leaf_key = openssl_root(tmp_path, "leaf", ca=False)
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no certificate")
    before = cluster.ctl(FIRST, "swarm", "ca").stdout
    for words, said in (
        (("--ca-cert", own), "must be given together"),
        (("--ca-cert", own, "--ca-key", other_key), "must be the key of the CA certificate"),
        (("--ca-cert", leaf, "--ca-key", leaf_key), "must be one of an authority"),
        (("--ca-cert", str(rubbish), "--ca-key", key), "must be PEM"),
        (("--ca-cert", str(tmp_path / "none"), "--ca-key", key), "no such file or directory"),
    ):
        code, output = ctl(cluster, FIRST, "swarm", "ca", "--rotate", *words)
        assert (code, said in output) == (1, True), output
    assert cluster.ctl(FIRST, "swarm", "ca").stdout == before

    cluster.ctl(FIRST, "swarm", "ca", "--rotate", "--ca-cert", own, "--ca-key", key)
    assert cluster.ctl(FIRST, "swarm", "ca").stdout == Path(own).read_text()
    for name in (FIRST, SECOND):
        swarm = cluster.lab[name].directory / "data" / "swarm"
        assert (swarm / "root-ca.pem").read_text() == Path(own).read_text()
        shown = pem.read_certificate((swarm / "node.pem").read_bytes())
        shown.verify_directly_issued_by(pem.read_certificate(Path(own).read_bytes()))
    assert cluster.ctl(FIRST, "node", "ls", "--format", "{{.TLSStatus}}").stdout == "Ready\nReady\n"
    cluster.ctl(SECOND, "swarm", "leave")
    join(cluster)  # with a token of the new root


def test_certificates_are_renewed_before_they_expire(cluster: Cluster) -> None:
    init(cluster)
    join(cluster)
    path = cluster.lab[SECOND].directory / "data" / "swarm" / "node.pem"
    seen: set[int] = set()

    def renewed_twice() -> bool:
        seen.add(pem.read_certificate(path.read_bytes()).serial_number)
        return len(seen) >= 3

    eventually(renewed_twice, "two renewals", timeout=60)
    listed = cluster.ctl(FIRST, "node", "ls", "--format", "{{.Status}}").stdout
    assert listed == "Ready\nReady\n"
