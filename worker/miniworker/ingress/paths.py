"""The ways in which a node can serve published ports to clients elsewhere."""

from __future__ import annotations

from typing import Literal

IngressPath = Literal["auto", "kernel", "userspace"]
"""auto: in the kernel where it takes the rules, else in userspace."""
