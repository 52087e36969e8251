"""Three real nodes for the walk of the tutorial."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster
from support.hosts import Lab
from support.images import write_tutorial_archives

HOSTS = ("core-01", "core-02", "core-03")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tutorial's images as archives, by reference."""
    return write_tutorial_archives(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Daemons on three hosts, not yet members of anything."""
    with Lab(f"e{os.getpid() % 10000}", HOSTS) as lab:
        cluster = Cluster(lab)
        cluster.start(*HOSTS)
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the daemons said."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.when == "call" and report.failed and isinstance(cluster, Cluster):
        report.sections.append(("daemons", cluster.logs()))
    return report  # type: ignore[return-value]
