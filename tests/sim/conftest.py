"""How many stories are told, and which."""

from __future__ import annotations

import os

import pytest

DEFAULT_SEEDS = 20
"""About a minute on two cores; two of them are of hundreds of nodes."""


def seeds() -> list[int]:
    """`MINI_SIM_SEED` is one story; else `MINI_SIM_SEEDS` is how many, from 1 on."""
    one = os.environ.get("MINI_SIM_SEED")
    if one is not None:
        return [int(one)]
    return list(range(1, int(os.environ.get("MINI_SIM_SEEDS", str(DEFAULT_SEEDS))) + 1))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", seeds())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told: dict[str, int] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            properties = dict(report.user_properties)
            if report.when == "call" and "sim_revisions" in properties:
                told["stories"] = told.get("stories", 0) + 1
                told["revisions"] = told.get("revisions", 0) + int(str(properties["sim_revisions"]))
                told["hours"] = told.get("hours", 0) + int(str(properties["sim_seconds"]))
    if told:
        terminalreporter.write_sep("-", "simulation")
        terminalreporter.write_line(
            f"{told['stories']} seeds, {told['revisions']} revisions checked, "
            f"{told['hours'] / 3600:.1f} hours of virtual time"
        )
