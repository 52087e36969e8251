"""Choosing a runtime says exactly what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from minicommon.errors import FailedPreconditionError, InvalidArgumentError
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


async def test_docker_is_not_available_yet(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="docker runtime is not available in this version"):
        await open_runtime(RuntimeSettings(_settings(tmp_path), kind="docker"))


async def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="one of auto, oci, docker, not 'podman'"):
        await open_runtime(RuntimeSettings(_settings(tmp_path), kind="podman"))
