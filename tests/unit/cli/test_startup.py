"""What must not be imported on the way to a quick answer; importing it again would cost more than the work."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("asyncio", "dataclasses", "google.protobuf", "grpc", "inspect", "json", "re", "ssl", "typing")


def imported(code: str) -> set[str]:
    """The modules that are loaded after `code` has run in a bare interpreter with our paths."""
    program = f"import sys\nsys.path[:0] = {sys.path!r}\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "from minictl import main; main.run(['--help'], {})",
        "from minictl import main; main.run(['service', 'create', '--help'], {})",
        "from minictl.client import channel, endpoint, headers, http2, messages\n"
        "from minictl.commands import service\nfrom minictl.output import listing, table\n"
        "from minictl.views import service as view\nimport socket\nmessages.ListServicesResponse",
    ],
    ids=["help", "command help", "service ls"],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert imported(code) & set(HEAVY) == set()


def test_help_needs_no_client() -> None:
    loaded = imported("from minictl import main; main.run(['--help'], {})")
    assert not {name for name in loaded if name.startswith("minictl.client")}
    assert "socket" not in loaded
