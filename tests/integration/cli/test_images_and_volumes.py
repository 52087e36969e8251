"""What an image is pinned to, who nodes pull it as, and the node's volumes, against a canned server."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from miniproto.v1 import control_pb2 as control
from miniproto.v1 import node_pb2
from miniproto.v1 import objects_pb2 as objects
from support.control_server import World

from .conftest import Run

DIGEST = "sha256:" + "d" * 64
PLATFORMS = [objects.Platform(os="linux", architecture="amd64")]


def created(world: World) -> control.CreateServiceRequest:
    (request,) = [item for item in world.requests if isinstance(item, control.CreateServiceRequest)]
    return request


def updated(world: World) -> control.UpdateServiceRequest:
    (request,) = [item for item in world.requests if isinstance(item, control.UpdateServiceRequest)]
    return request


def test_a_tag_is_pinned_to_its_digest_and_platforms(minictl: Run, world: World) -> None:
    world.resolved["app:latest"] = node_pb2.ResolveImageResponse(digest=DIGEST, platforms=PLATFORMS)
    assert minictl("service", "create", "-d", "--name", "x", "app").stderr == "a warning\n"
    spec = created(world).spec
    assert spec.task.container.image == f"app:latest@{DIGEST}"
    assert list(spec.placement.platforms) == PLATFORMS
    assert not created(world).HasField("registry_auth")


def test_a_digest_stays_and_gets_its_platforms(minictl: Run, world: World) -> None:
    image = f"app@{DIGEST}"
    world.resolved[image] = node_pb2.ResolveImageResponse(digest=DIGEST, platforms=PLATFORMS)
    minictl("service", "create", "-d", "--name", "x", image)
    assert created(world).spec.task.container.image == image
    assert list(created(world).spec.placement.platforms) == PLATFORMS


def test_a_registry_that_does_not_answer_is_told_and_no_obstacle(minictl: Run, world: World) -> None:
    done = minictl("service", "create", "-d", "--name", "x", "whoami:9")
    assert done.returncode == 0
    assert done.stderr == (
        "image whoami:9 could not be accessed on a registry to record\n"
        "its digest. Each node will access whoami:9 independently,\n"
        "possibly leading to different nodes running different\n"
        "versions of the image.\n\n"
        "a warning\n"
    )
    assert created(world).spec.task.container.image == "whoami:9"


def test_no_registry_is_asked_when_told_so(minictl: Run, world: World) -> None:
    done = minictl("service", "create", "-d", "--no-resolve-image", "--name", "x", "whoami:9")
    assert (done.stderr, world.resolving) == ("a warning\n", [])
    assert created(world).spec.task.container.image == "whoami:9"


def test_an_update_resolves_a_new_image_only(minictl: Run, world: World) -> None:
    world.services["web"].service.spec.placement.platforms.extend(PLATFORMS)
    assert minictl("service", "update", "-d", "--env-add", "A=3", "web").returncode == 0
    assert world.resolving == []
    assert list(updated(world).spec.placement.platforms) == PLATFORMS
    world.requests.clear()
    assert minictl("service", "update", "-d", "--no-resolve-image", "--image", "b:1", "web").returncode == 0
    assert not updated(world).spec.placement.platforms, "those were the old image's"
    world.requests.clear()
    world.resolved["b:1"] = node_pb2.ResolveImageResponse(digest=DIGEST, platforms=PLATFORMS)
    assert minictl("service", "update", "-d", "--image", "b:1", "web").returncode == 0
    assert updated(world).spec.task.container.image == f"b:1@{DIGEST}"


def test_the_login_goes_along_only_when_asked(
    minictl: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = base64.b64encode(b"ann:secret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"reg.example": {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    image = "reg.example/app:1"
    world.resolved[image] = node_pb2.ResolveImageResponse(digest=DIGEST)
    expected = objects.RegistryAuth(username="ann", password="secret")
    minictl("service", "create", "-d", "--with-registry-auth", "--name", "x", image)
    assert created(world).registry_auth == expected
    assert world.resolving[-1].registry_auth == expected
    minictl("service", "update", "-d", "--with-registry-auth", "--image", image, "web")
    assert updated(world).registry_auth == expected
    world.requests.clear()
    done = minictl("service", "create", "-d", "--with-registry-auth", "--name", "y", "whoami:1")
    assert done.stderr.startswith(
        "--with-registry-auth: nobody has logged in to docker.io here, so nodes will pull whoami:1 as anybody\n"
    )
    assert not created(world).HasField("registry_auth")


def test_pull_and_push_say_what_docker_says_and_bring_the_login(
    minictl: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auths = {"reg.example": {"username": "ann", "password": "secret"}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert minictl("pull", "reg.example/app").stdout.splitlines() == [
        "Using default tag: latest",
        "latest: Pulling from app",
        f"Digest: {DIGEST}",
        "Status: Downloaded newer image for reg.example/app:latest",
        "reg/reg.example/app:latest",
    ]
    assert minictl("image", "pull", "-q", "app:1").stdout == "reg/app:1\n"
    assert minictl("push", "reg.example/app:1").stdout.splitlines() == [
        "The push refers to repository [reg.example/app]",
        "abc: Pushed",
        f"1: digest: {DIGEST} size: 7",
    ]
    expected = objects.RegistryAuth(username="ann", password="secret")
    assert [each.HasField("registry_auth") for each in world.requests] == [True, False, True]
    assert world.requests[0].registry_auth == world.requests[2].registry_auth == expected
    done = minictl("pull", "none")
    assert (done.returncode, done.stderr) == (1, "Error response from daemon: manifest unknown: none\n")


def test_save_tag_and_prune(minictl: Run, world: World, tmp_path: Path) -> None:
    assert minictl("save", "app:1").stdout == "archive"
    target = tmp_path / "app.tar"
    assert minictl("image", "save", "-o", str(target), "app:1", "b").returncode == 0
    assert target.read_bytes() == b"archive"
    target.unlink()
    assert minictl("save", "-o", str(target), "none").returncode == 1
    assert list(tmp_path.glob("*.tar*")) == [], "nothing half written is left"
    minictl("tag", "app:1", "other:2")
    assert world.requests == [node_pb2.TagImageRequest(ref="app:1", name="other:2")]
    assert minictl("image", "prune", stdin=b"n\n").returncode == 1
    assert len(world.requests) == 1
    assert minictl("image", "prune", "-af").stdout == (
        "Deleted Images:\nuntagged: a:1\ndeleted: sha256:1\n\nTotal reclaimed space: 2MB\n"
    )
    assert world.requests[-1] == node_pb2.PruneImagesRequest(all=True)


@pytest.fixture
def volumes(world: World) -> dict[str, node_pb2.Volume]:
    for volume in (
        node_pb2.Volume(name="db", mountpoint="/v/db/_data", labels={"a": "b"}, used_by=["c1"]),
        node_pb2.Volume(name="old", mountpoint="/v/old/_data", created_at_ns=1_795_000_000 * 10**9 + 5),
        node_pb2.Volume(name="f" * 64, labels={"com.docker.volume.anonymous": ""}),
    ):
        world.volumes[volume.name] = volume
    return world.volumes


@pytest.mark.usefixtures("volumes")
def test_volume_ls(minictl: Run) -> None:
    assert minictl("volume", "ls").stdout.splitlines() == [
        "DRIVER    VOLUME NAME",
        "local     db",
        f"local     {'f' * 64}",
        "local     old",
    ]
    for words, names in (
        (("-f", "name=d"), ["db", "old"]),
        (("-f", "dangling=false"), ["db"]),
        (("-f", "dangling=1"), ["f" * 64, "old"]),
        (("-f", "label=a"), ["db"]),
        (("-f", "label=a=c"), []),
        (("-f", "driver=local", "-f", "name=old"), ["old"]),
        (("-f", "driver=nfs"), []),
    ):
        assert minictl("volume", "ls", "-q", *words).stdout.split() == names
    assert minictl("volume", "ls", "--format", "{{.Name}} {{.Mountpoint}}").stdout.startswith("db /v/db")
    done = minictl("volume", "ls", "-f", "size=1")
    assert (done.returncode, done.stderr) == (
        1,
        "invalid filter 'size': only dangling, driver, label, name are supported\n",
    )
    assert minictl("volume", "ls", "-f", "dangling=x").stderr == "invalid filter 'dangling=x'\n"


@pytest.mark.usefixtures("volumes")
def test_volume_inspect(minictl: Run) -> None:
    done = minictl("volume", "inspect", "old", "none")
    assert done.returncode == 1
    assert json.loads(done.stdout) == [
        {
            "CreatedAt": "2026-11-18T11:06:40Z",
            "Driver": "local",
            "Labels": None,
            "Mountpoint": "/v/old/_data",
            "Name": "old",
            "Options": None,
            "Scope": "local",
        }
    ]
    assert done.stderr == "no such volume: none\n"


def test_volume_create(minictl: Run, world: World) -> None:
    assert minictl("volume", "create", "--label", "a=b", "data").stdout == "data\n"
    assert dict(world.requests[-1].labels) == {"a": "b"}
    assert minictl("volume", "create").stdout == "f" * 64 + "\n"
    assert minictl("volume", "create", "--name", "x").stdout == "x\n"
    for words, message in (
        (("--name", "a", "b"), "conflicting options"),
        (("-d", "nfs", "a"), 'volume driver "nfs" is not supported: only local is'),
        (("-o", "size=1", "a"), "--opt size=1: the local driver of this version has no options"),
    ):
        done = minictl("volume", "create", *words)
        assert (done.returncode, message in done.stderr) == (1, True)


@pytest.mark.usefixtures("volumes")
def test_volume_rm(minictl: Run, world: World) -> None:
    done = minictl("volume", "rm", "db", "none", "old")
    assert (done.returncode, done.stdout) == (1, "old\n")
    assert done.stderr == (
        "Error response from daemon: remove db: volume is in use - [c1]\n"
        "Error response from daemon: get none: no such volume\n"
    )
    assert "old" not in world.volumes


@pytest.mark.usefixtures("volumes")
def test_volume_prune(minictl: Run, world: World) -> None:
    done = minictl("volume", "prune", stdin=b"n\n")
    assert (done.returncode, done.stderr) == (1, "volume prune has been cancelled\n")
    assert done.stdout == (
        "WARNING! This will remove anonymous local volumes not used by at least one container.\n"
        "Are you sure you want to continue? [y/N] "
    )
    done = minictl("volume", "prune", stdin=b"y\n")
    assert done.stdout.endswith(f"[y/N] Deleted Volumes:\n{'f' * 64}\n\nTotal reclaimed space: 2MB\n")
    assert set(world.volumes) == {"db", "old"}
    assert (
        minictl("volume", "prune", "-f", "-a", "--filter", "label=x").stdout == "Total reclaimed space: 0B\n"
    )
    assert "Deleted Volumes:\nold\n" in minictl("volume", "prune", "-f", "--filter", "all=1").stdout
    assert set(world.volumes) == {"db"}
