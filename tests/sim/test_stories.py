"""Each seed is a story of users who change their minds and of everything that can fail; the guarantees hold throughout.

`MINI_SIM_SEEDS=500 pytest tests/sim` tells more of them; `MINI_SIM_SEED=17 pytest tests/sim` tells one.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from support.sim.story import StoryError, tell

RecordProperty = Callable[[str, object], None]

LENGTH = 4
"""Of the seeds told twice: short ones."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A story is full of warnings, as it should be, and writing them down takes longer than the story."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def test_a_story_keeps_every_guarantee(seed: int, record_property: RecordProperty) -> None:
    try:
        told = tell(seed)
    except StoryError as error:
        record_property("sim_revisions", 0)
        record_property("sim_seconds", 0)
        pytest.fail(
            f"{error}\n\nrepeat it with: MINI_SIM_SEED={seed} .venv/bin/pytest tests/sim", pytrace=False
        )
    record_property("sim_revisions", told.revisions)
    record_property("sim_seconds", round(told.virtual_seconds))


@cache
def _digest(seed: int) -> str:
    return tell(seed, nodes=LENGTH).digest


def test_the_same_seed_is_the_same_history() -> None:
    """In another process too, where sets of strings have another order."""
    here = [_digest(seed) for seed in (1, 2)]
    program = (
        "import logging; logging.disable(logging.ERROR); from support.sim.story import tell; "
        f"print(*(tell(seed, nodes={LENGTH}).digest for seed in (1, 2)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": "tests"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == here


def test_another_seed_is_another_history() -> None:
    assert _digest(1) != _digest(2)
