"""`minictl` and a real manager: over its unix socket, and over mutual TLS with a client certificate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from minicommon.identity.names import Caller
from minimanager.domain.usage import in_use_by
from support.command_line import without_registry
from support.manager import InProcess, manager_in_process

from .conftest import MINICTL


@pytest.fixture
async def manager() -> AsyncIterator[InProcess]:
    async with manager_in_process() as running:
        yield running


async def run(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        str(MINICTL),
        *without_registry(arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_service_from_create_to_rm(manager: InProcess) -> None:
    host = ("-H", f"unix://{manager.home.paths.manager_socket}")
    code, out, err = await run(
        *host, "service", "create", "-d", "--name", "web", "-p", "8080:80", "whoami:1", "serve"
    )
    assert (code, err) == (0, "")
    service_id = out.strip()
    assert len(service_id) == 25
    code, out, err = await run(*host, "service", "ls")
    assert out.splitlines()[1].split() == [
        service_id[:12],
        "web",
        "replicated",
        "0/1",
        "whoami:1",
        "*:8080->80/tcp",
    ]
    code, out, err = await run(
        *host, "service", "create", "-d", "--name", "other", "-p", "8080:80", "whoami:1"
    )
    assert code == 1
    assert err.startswith("Error response from daemon: ")
    assert "8080" in err
    assert "web" in err
    assert (await run(*host, "service", "scale", "-d", "web=3"))[1] == "web scaled to 3\n"
    assert (await run(*host, "service", "update", "-d", "--env-add", "A=1", "--publish-rm", "80", "web"))[
        0
    ] == 0
    code, out, err = await run(*host, "service", "inspect", "web")
    (service,) = json.loads(out)
    assert service["Spec"]["Mode"] == {"Replicated": {"Replicas": 3}}
    assert service["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=1"]
    assert service["Spec"]["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] == 10_000_000_000
    assert service["Spec"]["TaskTemplate"]["RestartPolicy"] == {
        "Condition": "any",
        "Delay": 5_000_000_000,
        "MaxAttempts": 0,
    }
    assert "Ports" not in service["Endpoint"]
    code, out, err = await run(*host, "service", "ps", "web", "--format", "{{.Name}}")
    assert (code, err) == (0, "")
    assert set(out.split()) <= {"web.1", "web.2", "web.3"}
    assert await run(*host, "service", "rm", "web") == (0, "web\n", "")
    code, out, err = await run(*host, "service", "inspect", "nope")
    assert (code, out, err) == (1, "[]\n", "no such service: nope\n")


async def left(manager: InProcess, network_id: str) -> None:
    """Wait until no task is to run on the network any more."""
    cache = manager.manager.core.cache
    with cache.subscribe() as changes:
        while in_use_by(cache.snapshot(), cache.snapshot().networks[network_id]):
            await asyncio.wait_for(changes.next(), 20)


async def test_a_network_from_create_to_prune(manager: InProcess) -> None:
    host = ("-H", f"unix://{manager.home.paths.manager_socket}")
    code, out, err = await run(*host, "network", "create", "--attachable", "backend")
    assert (code, err, len(out.strip())) == (0, "", 25)
    network_id = out.strip()
    await run(*host, "network", "create", "front")
    listed = (await run(*host, "network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"))[1]
    assert listed.splitlines() == ["backend overlay swarm", "front overlay swarm", "ingress overlay swarm"]

    create = (*host, "service", "create", "-d", "--name", "db", "--network", "name=backend,alias=store")
    publish = ("-p", "target=80,published=8080,local=only,sticky=true,host_ip=10.77.0.11")
    assert (await run(*create, *publish, "redis"))[0] == 0
    (service,) = json.loads((await run(*host, "service", "inspect", "db"))[1])
    assert service["Spec"]["TaskTemplate"]["Networks"] == [{"Target": network_id, "Aliases": ["store"]}]
    assert service["Endpoint"]["VirtualIPs"] == [{"NetworkID": network_id, "Addr": "10.0.1.254/24"}]
    assert service["Endpoint"]["Ports"][0]["Local"] == "only"
    pretty = (await run(*host, "service", "inspect", "--pretty", "db"))[1]
    assert "\nNetworks: backend \nEndpoint Mode:\tvip\n" in pretty
    assert "  HostIP = 10.77.0.11\n  Local = only\n  Sticky = true" in pretty
    ports = (await run(*host, "service", "ls", "--format", "{{.Ports}}"))[1]
    assert ports == "10.77.0.11:8080->80/tcp\n"

    code, out, err = await run(*host, "network", "rm", "backend")
    assert (code, out) == (1, "")
    assert err == "Error response from daemon: network backend is in use by service db\n"
    update = (*host, "service", "update", "-d", "--network-add", "front", "--network-rm", "backend", "db")
    assert (await run(*update))[0] == 0
    services = "{{range $name, $service := .Services}}{{$name}}{{end}}"
    assert await run(*host, "network", "inspect", "-v", "-f", services, "front") == (
        0,
        "db\n",
        "",
    )
    assert await run(*host, "service", "update", "-d", "--network-add", "front", "db") == (
        1,
        "",
        "service is already attached to network front\n",
    )
    await left(manager, network_id)
    assert await run(*host, "network", "prune", "-f") == (0, "Deleted Networks:\nbackend\n\n", "")
    assert await run(*host, "network", "prune", "-f") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("service", "ls", "--filter", "nope=1"), "invalid filter 'nope'"),
        (("service", "create", "-d", "--name", "Not Valid", "x"), "name"),
        (("service", "create", "-d", "--limit-memory", "1m", "x"), "4"),
        (("node", "rm", "nope"), "node nope not found"),
        (("service", "rm", "nope"), "service nope not found"),
        (("service", "create", "-d", "--network", "nope", "x"), "network nope not found"),
        (("network", "create", "-d", "bridge", "x"), "driver: only 'overlay' networks span the nodes"),
    ],
)
async def test_refusals_are_the_daemons(manager: InProcess, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = await run("-H", f"unix://{manager.home.paths.manager_socket}", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("Error response from daemon: ")
    assert message in err


async def test_with_a_client_certificate(manager: InProcess, tmp_path: Path) -> None:
    """A viewer may look, and may not change anything."""
    viewer = manager.home.credentials(Caller.VIEWER, "somebody")
    (tmp_path / "ca.pem").write_bytes(viewer.root_ca_pem)
    (tmp_path / "cert.pem").write_bytes(viewer.certificate_pem)
    (tmp_path / "key.pem").write_bytes(viewer.key_pem)
    host = (
        *("-H", f"tcp://127.0.0.1:{manager.control_port}", "--tlscacert", str(tmp_path / "ca.pem")),
        *("--tlscert", str(tmp_path / "cert.pem"), "--tlskey", str(tmp_path / "key.pem")),
    )
    code, out, err = await run(*host, "network", "ls", "--format", "{{.Name}}")
    assert (code, out, err) == (0, "ingress\n", "")
    assert (await run(*host, "node", "ls"))[0] == 0
    code, out, err = await run(*host, "service", "create", "-d", "x")
    assert (code, out) == (1, "")
    assert err.startswith("Error response from daemon: ")
    assert (await run(*host, "node", "inspect", "self"))[2] == (
        "there is no node `self` on a remote manager: name the node\n"
    )
