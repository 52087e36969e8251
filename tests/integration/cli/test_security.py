"""Tokens, client certificates, contexts and the audit journal: minictl as a process, and a real manager."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from minicommon.identity import pem, tokens
from minicommon.identity.peer import identity_of
from minicommon.identity.requests import new_request
from miniproto.v1 import join_pb2
from support.manager import InProcess, manager_in_process

from .conftest import MINICTL


@pytest.fixture
async def manager() -> AsyncIterator[InProcess]:
    async with manager_in_process() as running:
        yield running


class User:
    """Somebody at a shell, with a home of their own."""

    def __init__(self, manager: InProcess, home: Path) -> None:
        self.home = home
        self._socket = f"unix://{manager.home.paths.manager_socket}"

    async def root(self, *arguments: str) -> tuple[int, str, str]:
        """Root on the manager's machine."""
        return await self.run("-H", self._socket, *arguments)

    async def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            str(MINICTL),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.home,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), **(environment or {})},
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def done(self, *arguments: str) -> str:
        """The output of what must work, run as root."""
        code, out, err = await self.root(*arguments)
        assert code == 0, err
        return out


@pytest.fixture
def user(manager: InProcess, tmp_path: Path) -> User:
    return User(manager, tmp_path)


async def test_a_token_of_limited_use_from_create_to_rm(manager: InProcess, user: User) -> None:
    shown = await user.done(
        "swarm", "join-token", "create", "worker", "--ttl", "1h", "--uses", "1", "--label", "ci"
    )
    assert "minictl swarm join --token SWMTKN-1-" in shown
    token = next(word for word in shown.split() if word.startswith("SWMTKN"))
    assert tokens.parse(token).text == token
    rows = (await user.done("swarm", "join-token", "ls")).splitlines()
    assert rows[0].split() == ["ID", "LABEL", "ROLE", "STATE", "USES", "EXPIRES"]
    assert rows[1].split()[1:5] == ["ci", "worker", "active", "0/1"]
    request = join_pb2.IssueCertificateRequest(csr_pem=new_request().csr_pem, token=token, hostname="n")
    await (await manager.joiner()).join.IssueCertificate(request)
    assert len((await user.done("swarm", "join-token", "ls")).splitlines()) == 1
    assert "used up" in await user.done("swarm", "join-token", "ls", "-a")
    quiet = await user.done("swarm", "join-token", "create", "-q", "--label", "x", "worker")
    assert quiet.startswith("SWMTKN-1-")
    assert await user.done("swarm", "join-token", "rm", "x") == "x\n"
    assert (await user.root("swarm", "join-token", "rm", "nope"))[2] == (
        "Error response from daemon: join token nope not found\n"
    )


async def test_the_clusters_own_token_is_rotated(user: User) -> None:
    before = (await user.done("swarm", "join-token", "-q", "worker")).strip()
    rotated = await user.done("swarm", "join-token", "--rotate", "worker")
    assert rotated.startswith("Successfully rotated worker join token.\n")
    assert before not in rotated
    after = (await user.done("swarm", "join-token", "-q", "worker")).strip()
    assert after in rotated


async def test_a_laptop_uses_a_context_until_its_certificate_is_revoked(
    manager: InProcess, user: User
) -> None:
    host = f"tcp://127.0.0.1:{manager.control_port}"
    code, out, err = await user.root("client-cert", "create", "alice", "--role", "operator", "--expiry", "1h")
    assert code == 0
    assert f"minictl context create alice --mini host={host}" in err
    key = user.home / "alice" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    given = ",".join(f"{name}=alice/{name}.pem" for name in ("ca", "cert", "key"))
    created = await user.run("context", "create", "prod", "--mini", f"host={host},{given}")
    assert created == (0, "prod\n", 'Successfully created context "prod"\n')
    assert (await user.run("context", "use", "prod"))[0] == 0
    assert await user.run("context", "show") == (0, "prod\n", "")
    rows = (await user.run("context", "ls"))[1].splitlines()
    assert rows[0].split() == ["NAME", "DESCRIPTION", "ENDPOINT", "ERROR"]
    assert rows[2].split() == ["prod", "*", host]
    assert (await user.run("network", "ls", "--format", "{{.Name}}"))[1] == "ingress\n"
    assert (await user.run("service", "create", "-d", "--name", "web", "whoami:1"))[0] == 0
    refused = await user.run("swarm", "join-token", "worker")
    assert refused[0] == 1
    assert "allowed for admin" in refused[2]

    # the same on another machine
    assert (await user.run("context", "export", "prod"))[0] == 0
    assert stat.S_IMODE((user.home / "prod.minicontext").stat().st_mode) == 0o600
    elsewhere = {"MINI_CONFIG": str(user.home / "other"), "MINI_CONTEXT": "imported"}
    imported = await user.run("context", "import", "imported", "prod.minicontext", environment=elsewhere)
    assert imported[0] == 0
    assert (await user.run("service", "ls", "-q", environment=elsewhere))[0] == 0

    assert await user.done("client-cert", "revoke", "alice") == out
    code, _, err = await user.run("service", "ls")
    assert code == 1
    assert "was revoked" in err
    assert (await user.done("client-cert", "ls")).splitlines()[1:] == []
    assert "revoked" in await user.done("client-cert", "ls", "-a")
    assert (await user.run("context", "rm", "prod"))[2] == (
        'context "prod" is in use, set -f flag to force remove\n'
    )
    assert (await user.run("context", "rm", "-f", "prod"))[0] == 0
    assert await user.run("context", "show") == (0, "default\n", "")

    template = "{{.Method}} {{.Object}} {{.Result}}"
    rows = (await user.done("audit", "ls", "--user", "alice", "--format", template)).splitlines()
    assert rows == ["Services/Create web OK", "Clusters/JoinToken  PERMISSION_DENIED"]
    assert (
        await user.done("audit", "ls", "--since", "1h", "--method", "revoke", "--format", "{{.Object}}")
    ) == ("alice\n")


async def test_a_key_may_stay_where_it_was_made(user: User) -> None:
    made = new_request()
    (user.home / "alice.csr").write_bytes(made.csr_pem)
    code, _, _ = await user.root(
        "client-cert", "create", "--role", "viewer", "--csr", "alice.csr", "--out", "certs", "alice"
    )
    assert code == 0
    assert sorted(os.listdir(user.home / "certs")) == ["ca.pem", "cert.pem"]
    certificate = (user.home / "certs" / "cert.pem").read_bytes()
    assert identity_of(certificate).name == "alice"
    assert pem.read_certificate(certificate).public_key()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("client-cert", "create", "alice"), "--role: must be viewer, operator or admin"),
        (("context", "create", "x"), "--mini: give at least host="),
        (("context", "create", "x", "--mini", "host=tcp://h"), "needs TLS: give ca, cert and key"),
        (("context", "create", "../x", "--mini", "host=unix:///x"), "is invalid"),
        (("context", "use", "nope"), 'context "nope" does not exist'),
        (("context", "rm", "default"), 'context "default" cannot be removed'),
        (("--context", "nope", "service", "ls"), 'context "nope" does not exist'),
        (("--context", "a", "-H", "b", "service", "ls"), "conflicting options"),
        (("audit", "ls", "--since", "yesterday"), "--since: must be a time"),
        (("audit", "ls", "--since", "inf"), "--since: must be a time"),
        (("swarm", "join-token", "create", "boss"), "unknown role boss"),
    ],
)
async def test_what_cannot_be_is_said(user: User, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = await user.run(*arguments)
    assert (code, out) == (1, "")
    assert words in err
