"""`minictl secret` and `minictl config` against a real manager."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.manager import InProcess, manager_in_process

from .conftest import MINICTL


@pytest.fixture
async def manager() -> AsyncIterator[InProcess]:
    async with manager_in_process() as running:
        yield running


class Ctl:
    def __init__(self, manager: InProcess) -> None:
        self._host = f"unix://{manager.home.paths.manager_socket}"

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            str(MINICTL),
            "-H",
            self._host,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin), 60)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def ok(self, *arguments: str, stdin: bytes = b"") -> str:
        code, out, err = await self(*arguments, stdin=stdin)
        assert (code, err) == (0, ""), (code, out, err)
        return out


@pytest.fixture
def ctl(manager: InProcess) -> Ctl:
    return Ctl(manager)


async def test_a_secret_as_in_the_tutorial(ctl: Ctl) -> None:
    out = await ctl.ok("secret", "create", "my-password", "-", stdin=b"this is my password!\n")
    secret_id = out.strip()
    assert len(secret_id) == 25
    create = ("service", "create", "-d", "--no-resolve-image", "--name", "secret", "--secret", "my-password")
    await ctl.ok(*create, "-e", "SECRET_PATH=/run/secrets/my-password", "secret")
    (shown,) = json.loads(await ctl.ok("service", "inspect", "secret"))
    assert shown["Spec"]["TaskTemplate"]["ContainerSpec"]["Secrets"] == [
        {
            "File": {"Name": "my-password", "UID": "0", "GID": "0", "Mode": 292},
            "SecretID": secret_id,
            "SecretName": "my-password",
            "SecretVersion": 1,
        }
    ]
    assert await ctl("secret", "rm", "my-password") == (
        1,
        "",
        "Error response from daemon: secret 'my-password' is in use by the following service: secret\n",
    )
    await ctl.ok("service", "update", "-d", "--secret-rm", "my-password", "secret")
    assert await ctl.ok("secret", "rm", "my-password") == "my-password\n"
    assert (await ctl.ok("secret", "ls")).split() == ["ID", "NAME", "DRIVER", "CREATED", "UPDATED"]


async def test_a_content_never_comes_back(ctl: Ctl) -> None:
    await ctl.ok("secret", "create", "-l", "a=b", "key", "-", stdin=b"canary-7f3a")
    for command in (
        ("secret", "ls", "--format", "json"),
        ("secret", "inspect", "key"),
        ("secret", "inspect", "--pretty", "key"),
        ("secret", "who", "key"),
        ("secret", "audit"),
    ):
        assert "canary" not in await ctl.ok(*command)
    (shown,) = json.loads(await ctl.ok("secret", "inspect", "key"))
    assert shown["Spec"] == {"Name": "key", "Labels": {"a": "b"}}


async def test_files_up_to_the_limit(ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"x" * 511_999)
    await ctl.ok("secret", "create", "big", str(path))
    path.write_bytes(b"x" * 1_023_999)
    await ctl.ok("config", "create", "big", str(path))
    code, out, err = await ctl("secret", "create", "bigger", str(path))
    assert (code, out) == (1, "")
    assert "secret data must be larger than 0 and less than 512000 bytes, not 1023999" in err
    path.write_bytes(b"x" * 5_000_000)
    code, out, err = await ctl("config", "create", "bigger", str(path))
    assert (code, out) == (1, "")
    assert "config data must be larger than 0 and less than 1024000 bytes" in err


async def test_a_config_and_its_filters(ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "site.conf"
    path.write_text("root = {{.Task.Slot}}\n")
    await ctl.ok("config", "create", "--template-driver", "golang", "-l", "tier=web", "site", str(path))
    (shown,) = json.loads(await ctl.ok("config", "inspect", "site"))
    assert shown["Spec"]["Data"] == "cm9vdCA9IHt7LlRhc2suU2xvdH19Cg=="
    assert shown["Spec"]["Templating"] == {"Name": "golang"}
    assert "root = {{.Task.Slot}}" in await ctl.ok("config", "inspect", "--pretty", "site")
    names = ("config", "ls", "--format", "{{.Name}}", "--filter")
    assert await ctl.ok(*names, "label=tier=web") == "site\n"
    assert await ctl.ok(*names, "name=other") == ""
    assert await ctl.ok("config", "rm", "site") == "site\n"


async def test_rotate_without_users_and_the_ledger(ctl: Ctl) -> None:
    await ctl.ok("secret", "create", "key", "-", stdin=b"one")
    out = await ctl.ok("secret", "rotate", "key", "-", "--grace", "0s", stdin=b"two")
    assert out.splitlines() == [
        "key: version 2 goes to no service",
        "key: no task uses version 1 any more",
    ]
    assert await ctl.ok("secret", "ls", "--format", "{{.Name}} {{.Version}}") == "key 2\n"
    assert "The ledger is whole: 0 records" in await ctl.ok("secret", "audit", "--verify")


async def test_how_long_the_ledger_is_kept_is_a_setting(ctl: Ctl) -> None:
    await ctl.ok("swarm", "update", "--ledger-age", "720h", "--ledger-records", "1000")
    shown = await ctl.ok("swarm", "info", "--format", "{{json .Spec.Ledger}}")
    assert json.loads(shown) == {"Age": 720 * 3600 * 10**9, "Records": 1000}
    code, _, err = await ctl("swarm", "update", "--ledger-records", "7")
    assert (code, "ledger records: must be 100 to 1000000, or 0 for the default, not 7" in err) == (1, True)
    code, _, err = await ctl("swarm", "update", "--ledger-age", "1s")
    assert (code, "ledger age: must be at least 1h0m0s, or 0 for the default, not 1s" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("secret", "create", "key"), "secret content is required"),
        (("secret", "create", "-d", "vault", "key"), "secret drivers are not supported"),
        (("secret", "create", "key", "/no/such/file"), 'error reading content from "/no/such/file": open'),
        (("secret", "inspect", "nope"), "no such secret: nope"),
        (("secret", "inspect", "--pretty", "nope"), "no such secret: nope"),
        (("config", "inspect", "nope"), "no such config: nope"),
        (("config", "inspect", "--pretty", "--format", "x", "nope"), "--format is incompatible"),
        (("secret", "rm", "nope"), "secret nope not found"),
        (("secret", "who", "nope"), "secret nope not found"),
        (("secret", "audit", "--since", "yesterday"), "invalid value for --since"),
        (("secret", "audit", "--verify", "--since", "1m"), "--verify looks at the whole ledger"),
        (("service", "create", "-d", "--secret", "nope", "x"), "secret not found: nope"),
        (("service", "create", "-d", "--config", "nope", "x"), "config not found: nope"),
    ],
)
async def test_refusals(ctl: Ctl, arguments: tuple[str, ...], words: str) -> None:
    code, _, err = await ctl(*arguments)
    assert code == 1
    assert words in err
