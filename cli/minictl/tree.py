"""The top of the command tree: what `minictl --help` needs, and where the rest is."""

from __future__ import annotations

from minictl import values
from minictl.command import Group
from minictl.flags import Flag

DESCRIPTION = "Containers on many machines as on one"

GROUPS = (
    Group("image", "Manage images", "image"),
    Group("network", "Manage networks", "network"),
    Group("node", "Manage Swarm nodes", "node"),
    Group("service", "Manage Swarm services", "service"),
    Group("swarm", "Manage Swarm", "swarm"),
    Group("task", "Manage Swarm tasks", "task"),
    Group("volume", "Manage volumes", "volume"),
)

SHORTCUTS = {
    "images": ("image", "ls", "List images"),
    "info": ("system", "info", "Display system-wide information"),
    "load": ("image", "load", "Load an image from a tar archive or STDIN"),
    "rmi": ("image", "rm", "Remove one or more images"),
    "version": ("system", "version", "Show the version information"),
}
"""Commands at the top: the module and name of the command that they are."""

MANAGEMENT = ("image", "network", "volume")
SWARM = ("node", "service", "swarm", "task")

GLOBAL_FLAGS = (
    Flag("host", "Daemon socket to connect to", short="H", kind=values.STRING),
    Flag("tlscacert", "Trust certs signed only by this CA", kind=values.STRING, shown='"~/.mini/ca.pem"'),
    Flag("tlscert", "Path to TLS certificate file", kind=values.STRING, shown='"~/.mini/cert.pem"'),
    Flag("tlskey", "Path to TLS key file", kind=values.STRING, shown='"~/.mini/key.pem"'),
    Flag("version", "Print version information and quit", short="v"),
)
