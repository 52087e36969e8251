"""Inside a sandbox: answers go back through the node that the request came from. Pure texts and differences.

The packets of a client keep its address, so the way back cannot be told from the address. It is told from the frame:
the first packet's source is the bridge of the node that it came through. That becomes the connection's mark, each
answer's mark, and by policy routing its way.
"""

from __future__ import annotations

from collections.abc import Iterable

from miniworker.network.model import ReturnPath
from miniworker.network.names import TABLE

INTERFACE = "eth0"
"""A task's interface on the ingress network."""


def sandbox_rules(paths: Iterable[ReturnPath], *, new: bool) -> str:
    """The script that makes our table in a sandbox, or replaces it.

    A new namespace has none, and taking one away costs the kernel several times what making one does.
    """
    elements = ", ".join(f"{path.mac} : {path.mark:#x}" for path in sorted(paths))
    removal = "" if new else f"add table ip {TABLE}\ndelete table ip {TABLE}\n"
    return f"""\
{removal}\
table ip {TABLE} {{
  map nodes {{
    type ether_addr : mark
    {f"elements = {{ {elements} }}" if elements else ""}
  }}
  chain prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "{INTERFACE}" ct state new ct mark set ether saddr map @nodes
  }}
  chain output {{
    type route hook output priority mangle; policy accept;
    ct mark != 0 meta mark set ct mark
  }}
}}
"""
