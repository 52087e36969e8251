"""Command lines for managers that are alone: no node's daemon is there to ask a registry."""

from __future__ import annotations


def without_registry(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """`service create` told not to resolve its image; everything else as it is."""
    at = arguments.index("create") if "create" in arguments else 0
    if at and arguments[at - 1] == "service":
        return (*arguments[: at + 1], "--no-resolve-image", *arguments[at + 1 :])
    return arguments
