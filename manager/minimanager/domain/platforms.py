"""Operating systems and processors: what an image is made for against what a node is."""

from __future__ import annotations

from collections.abc import Iterable

from minimanager.domain.objects import NodeDescription, Platform

_NAMES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "i386": "386",
    "i686": "386",
}
"""`uname -m` to Go's GOARCH, which images use."""


def architecture(name: str) -> str:
    """As images name it."""
    lower = name.lower()
    return _NAMES.get(lower, lower)


def text(platform: Platform) -> str:
    """`linux/amd64`; what may be any is `*`."""
    return f"{platform.os or '*'}/{architecture(platform.architecture) or '*'}"


def supports(node: NodeDescription, platforms: Iterable[Platform]) -> bool:
    """Whether the node is of one of the platforms; with none given it need not be of any."""
    wanted = tuple(platforms)
    return not wanted or any(_is(node, platform) for platform in wanted)


def _is(node: NodeDescription, platform: Platform) -> bool:
    return platform.os.lower() in ("", node.os.lower()) and architecture(platform.architecture) in (
        "",
        architecture(node.architecture),
    )
