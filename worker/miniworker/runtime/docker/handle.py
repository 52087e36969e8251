"""The image of the handle: one program of a few instructions that enters the namespace at /netns and then does nothing.

The Engine cannot be given a namespace by its path, only by a container that is in it. This is that container's image.
The node's own programs would need its libraries in the container, so the program is made here, byte by byte:

    fd = open("/netns", O_RDONLY);  if (setns(fd, CLONE_NEWNET) != 0) exit(1);  for (;;) pause();
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

from miniworker.runtime.api import RuntimeFaultError

NETNS = "/netns"
"""Where the namespace is bound in the handle."""

PROGRAM = "/handle"

_BASE = 0x400000
_HEADERS = 64 + 56
"""Bytes before the first instruction: the ELF header and one program header."""


@dataclass(frozen=True, slots=True)
class _Machine:
    goarch: str
    elf: int
    """e_machine of <elf.h>."""
    code: bytes
    """Followed by the path, which its first instruction addresses."""


_X86_64 = bytes.fromhex(
    "488d3d30000000"  # lea rdi, [rip+0x30]   the path
    "31f6"  # xor esi, esi                    O_RDONLY
    "b802000000"  # mov eax, 2                open
    "0f05"  # syscall
    "89c7"  # mov edi, eax
    "be00000040"  # mov esi, 0x40000000       CLONE_NEWNET
    "b834010000"  # mov eax, 308              setns
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7509"  # jnz +9
    "b822000000"  # mov eax, 34               pause
    "0f05"  # syscall
    "ebf7"  # jmp -9
    "bf01000000"  # mov edi, 1
    "b83c000000"  # mov eax, 60               exit
    "0f05"  # syscall
)

_AARCH64 = b"".join(
    struct.pack("<I", word)
    for word in (
        0x92800C60,  # mov x0, #-100            AT_FDCWD
        0x10000261,  # adr x1, +76              the path
        0xD2800002,  # mov x2, #0               O_RDONLY
        0xD2800708,  # mov x8, #56              openat
        0xD4000001,  # svc #0
        0xD2A80001,  # mov x1, #0x40000000      CLONE_NEWNET
        0xD2802188,  # mov x8, #268             setns
        0xD4000001,  # svc #0
        0xB5000120,  # cbnz x0, +36
        0xD2800000,  # mov x0, #0               no descriptors,
        0xD2800001,  # mov x1, #0
        0xD2800002,  # mov x2, #0               no end,
        0xD2800003,  # mov x3, #0
        0xD2800928,  # mov x8, #73              ppoll
        0xD4000001,  # svc #0
        0x17FFFFFA,  # b -24
        0xD503201F,  # nop
        0xD2800020,  # mov x0, #1
        0xD2800BA8,  # mov x8, #93              exit
        0xD4000001,  # svc #0
    )
)

_MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine("amd64", 62, _X86_64),
    "aarch64": _Machine("arm64", 183, _AARCH64),
}
"""By `uname -m`."""


def program(machine: str) -> bytes:
    """The static executable. Raises RuntimeFaultError for a machine that it is not written for."""
    found = _machine(machine)
    content = found.code + NETNS.encode() + b"\0"
    size = _HEADERS + len(content)
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 2, found.elf, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + content


def _machine(machine: str) -> _Machine:
    if machine not in _MACHINES:
        raise RuntimeFaultError(
            f"the docker runtime's networks are not available on {machine}, only on {' and '.join(_MACHINES)}; "
            "use --runtime oci"
        )
    return _MACHINES[machine]


@dataclass(frozen=True, slots=True)
class HandleImage:
    id: str
    """sha256:..., which the Engine knows it by; it has no name."""
    archive: bytes
    """For /images/load."""


def image(machine: str = "") -> HandleImage:
    """The same bytes, and so the same id, every time."""
    machine = machine or platform.machine()
    layer = _tar({PROGRAM.lstrip("/"): program(machine)}, mode=0o755)
    config = json.dumps(
        {
            "architecture": _machine(machine).goarch,
            "os": "linux",
            "config": {"Entrypoint": [PROGRAM]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    digest = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{digest}.json", "RepoTags": None, "Layers": ["layer.tar"]}]
    archive = _tar(
        {
            f"{digest}.json": config,
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        },
        mode=0o644,
    )
    return HandleImage(f"sha256:{digest}", archive)


def _tar(parts: Mapping[str, bytes], *, mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def own_ids() -> frozenset[str]:
    """What to leave out of lists of images."""
    return frozenset({image().id}) if platform.machine() in _MACHINES else frozenset()
