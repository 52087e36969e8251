"""What the OCI runtime complains of, without its layers of prefixes."""

from __future__ import annotations

import re

_MESSAGE = re.compile(r'level=(?:error|fatal) msg="((?:[^"\\]|\\.)*)"')
_NOISE = (
    "runc create failed: ",
    "exec failed: ",
    "unable to start container process: ",
    "OCI runtime create failed: ",
)


def has_complaint(output: str) -> bool:
    """Whether the runtime itself says something in it, and not only what it ran."""
    return bool(_MESSAGE.search(output))


def explain(output: str) -> str:
    """The runtime's complaint in one line, without its layers of prefixes.

    What remains is what Docker users know: `exec: "foo": executable file not found in $PATH`.
    """
    messages = _MESSAGE.findall(output)
    text = messages[-1] if messages else output.strip().rpartition("\n")[2]
    if messages:
        text = re.sub(r"\\(.)", r"\1", text)
    for noise in _NOISE:
        text = text.replace(noise, "")
    return text or "the container runtime failed without a message"
