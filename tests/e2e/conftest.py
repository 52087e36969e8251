"""Three real nodes for the walk of the tutorial."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually
from support.hosts import Lab
from support.images import busybox, foreign, whoami, write_tutorial_archives
from support.ports import free_port
from support.registry import PROGRAM, serve

HOSTS = ("core-01", "core-02", "core-03")

REGISTRY = "10.77.0.99:5000"
"""On the client's machine, in plain HTTP."""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tutorial's images as archives, by reference."""
    return write_tutorial_archives(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Daemons on three hosts, not yet members of anything; a module that kills them says `PATIENT`."""
    patient = getattr(request.module, "PATIENT", False)
    with Lab(f"e{os.getpid() % 10000}", HOSTS) as lab:
        cluster = Cluster(lab, worker_options=["--insecure-registry", REGISTRY], patient=patient)
        cluster.start(*HOSTS)
        yield cluster


@pytest.fixture(scope="module")
def registry(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a registry that every node reaches.

    It has `app/whoami:2`, `app/foreign:1` for other machines than these, and `app/both:1` for these and others.
    """
    folder = tmp_path_factory.mktemp("registry")
    with serve(folder, f"127.0.0.1:{free_port()}") as filling:
        filling.push(whoami(), "app/whoami:2")
        filling.push(foreign(busybox()), "app/foreign:1")
        filling.push_index(busybox(), "app/both:1", foreign(busybox()))
    config = folder / "config.yml"
    config.write_text(re.sub(r"127\.0\.0\.1:\d+", REGISTRY, config.read_text()))
    client = cluster.lab.client
    client.start([PROGRAM, "serve", str(config)], log="registry.log")
    eventually(lambda: "listening on" in client.log("registry.log"), "the registry listens")
    return REGISTRY


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the daemons said."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.when == "call" and report.failed and isinstance(cluster, Cluster):
        report.sections.append(("daemons", cluster.logs()))
    return report  # type: ignore[return-value]
