"""Choosing a runtime says exactly what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from miniworker.runtime.api import RuntimeFaultError
from miniworker.runtime.docker.engine import NEWEST, negotiate
from miniworker.runtime.docker.settings import DockerSettings
from miniworker.runtime.oci.open import find_programs
from miniworker.runtime.oci.settings import OciSettings
from miniworker.runtime.select import RuntimeSettings, open_runtime


def _settings(folder: Path, binary: str = "") -> OciSettings:
    return OciSettings(folder / "data", folder / "run", binary=binary)


def _install(folder: Path, *programs: str) -> str:
    for program in programs:
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    return str(folder)


def test_everything_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FailedPreconditionError, match=r"needs runc and conmon, not found in .*apt-get install"
    ):
        find_programs(_settings(tmp_path), search=str(tmp_path), unified=False)


def test_only_what_is_missing_is_named(tmp_path: Path) -> None:
    search = _install(tmp_path, "runc")
    with pytest.raises(FailedPreconditionError, match="needs conmon, not found"):
        find_programs(_settings(tmp_path), search=search, unified=False)


@pytest.mark.parametrize(
    ("unified", "binary", "chosen"), [(True, "", "crun"), (False, "", "runc"), (True, "runc", "runc")]
)
def test_crun_is_for_hosts_with_version_two_only(
    tmp_path: Path, unified: bool, binary: str, chosen: str
) -> None:
    search = _install(tmp_path, "runc", "crun", "conmon")
    assert find_programs(_settings(tmp_path, binary), search=search, unified=unified).runtime == str(
        tmp_path / chosen
    )


def _of_kind(folder: Path, kind: str) -> RuntimeSettings:
    return RuntimeSettings(
        _settings(folder), DockerSettings(folder / "docker", folder / "none.sock"), kind=kind
    )


async def test_where_no_engine_answers_docker_cannot_be_had(tmp_path: Path) -> None:
    said = r"docker runtime is not available: the Docker Engine at .*/none.sock does not answer: No such file"
    with pytest.raises(FailedPreconditionError, match=said):
        await open_runtime(_of_kind(tmp_path, "docker"))


async def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="one of auto, oci, docker, not 'podman'"):
        await open_runtime(_of_kind(tmp_path, "podman"))


@pytest.mark.parametrize(
    ("newest", "oldest", "chosen"),
    [("1.41", "1.12", (1, 41)), ("1.44", "1.24", (1, 44)), ("1.52", "1.44", NEWEST)],
)
def test_the_newest_version_of_the_api_that_both_know(
    newest: str, oldest: str, chosen: tuple[int, int]
) -> None:
    assert negotiate({"ApiVersion": newest, "MinAPIVersion": oldest}) == chosen


@pytest.mark.parametrize("told", [{"ApiVersion": "1.40", "MinAPIVersion": "1.12", "Version": "19.03.15"}, {}])
def test_an_engine_that_is_too_old_is_told_so(told: dict[str, str]) -> None:
    with pytest.raises(RuntimeFaultError, match=r"needs one of 1.41 \(Engine 20.10\) to"):
        negotiate(told)


def test_an_engine_that_no_longer_speaks_what_we_do() -> None:
    with pytest.raises(RuntimeFaultError, match=r"speaks version 1\.60 to 1\.70"):
        negotiate({"ApiVersion": "1.70", "MinAPIVersion": "1.60"})
