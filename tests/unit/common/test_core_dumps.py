"""A process that has forbidden core dumps leaves none, whatever its limits say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
os.chdir(sys.argv[1])
if sys.argv[2] == "forbid":
    from minicommon.core_dumps import forbid_core_dumps
    forbid_core_dumps()
os.abort()
"""


def dumped(directory: Path, what: str) -> bool:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", PROGRAM, str(directory), what], os.environ)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    return os.WCOREDUMP(status)


def test_no_core_dump(tmp_path: Path) -> None:
    if not dumped(tmp_path, "allow"):
        pytest.skip("this machine makes no core dumps at all")
    assert not dumped(tmp_path, "forbid")


def test_what_it_starts_may_leave_one_again(tmp_path: Path) -> None:
    """Containers keep the node's own limits."""
    script = (
        "import ctypes, subprocess, sys\n"
        "from minicommon.core_dumps import forbid_core_dumps\n"
        "forbid_core_dumps()\n"
        "ask = 'import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))'\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)\n"
        "subprocess.run([sys.executable, '-c', ask], check=True)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]


LOCKED = """
import mmap
from pathlib import Path
from minicommon.core_dumps import keep_out_of_swap
done = keep_out_of_swap()
later = mmap.mmap(-1, 1 << 20)
later.write(b"x" * (1 << 20))
(line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmLck:")]
print(done, int(line.split()[1]) > 1024)
"""


def test_memory_is_locked_now_and_later_where_that_is_allowed() -> None:
    done = subprocess.run([sys.executable, "-c", LOCKED], capture_output=True, text=True, check=True)
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")
    )
    allowed = bool(int(line.split()[1], 16) >> 14 & 1)  # CAP_IPC_LOCK
    assert done.stdout == f"{allowed} {allowed}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a capability up: needs root")
def test_without_the_capability_nothing_is_locked_and_it_is_said() -> None:
    command = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", sys.executable, "-c", LOCKED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
