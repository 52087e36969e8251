"""The top of the command tree: what `minictl --help` needs, and where the rest is."""

from __future__ import annotations

from minictl import values
from minictl.command import Group
from minictl.flags import Flag

DESCRIPTION = "Containers on many machines as on one"

GROUPS = (
    Group("audit", "Show who changed what", "audit"),
    Group("client-cert", "Manage certificates of people and programs", "client_cert"),
    Group("config", "Manage Swarm configs", "config"),
    Group("container", "Manage containers", "container"),
    Group("context", "Manage contexts", "context"),
    Group("image", "Manage images", "image"),
    Group("network", "Manage networks", "network"),
    Group("node", "Manage Swarm nodes", "node"),
    Group("secret", "Manage Swarm secrets", "secret"),
    Group("service", "Manage Swarm services", "service"),
    Group("swarm", "Manage Swarm", "swarm"),
    Group("task", "Manage Swarm tasks", "task"),
    Group("volume", "Manage volumes", "volume"),
)

SHORTCUTS = {
    "attach": (
        "container",
        "attach",
        "Attach local standard input, output, and error streams to a running container",
    ),
    "commit": (
        "container",
        "commit",
        "Create a new image from a container's changes, on the node that has the container",
    ),
    "cp": ("container", "cp", "Copy files/folders between a container and the local filesystem"),
    "exec": ("container", "exec", "Execute a command in a running container"),
    "images": ("image", "ls", "List images"),
    "info": ("system", "info", "Display system-wide information"),
    "inspect": ("container", "inspect", "Display detailed information on one or more containers"),
    "load": ("image", "load", "Load an image from a tar archive or STDIN"),
    "logs": ("container", "logs", "Fetch the logs of a container"),
    "port-forward": (
        "container",
        "port-forward",
        "Forward local ports to ports of a container, wherever it runs",
    ),
    "ps": ("container", "ls", "List containers"),
    "pull": ("image", "pull", "Download an image from a registry to this node"),
    "push": ("image", "push", "Upload an image of this node to a registry"),
    "rm": ("container", "rm", "Remove one or more containers of `minictl run`"),
    "rmi": ("image", "rm", "Remove one or more images"),
    "run": ("container", "run", "Create and run a new container from an image"),
    "save": (
        "image",
        "save",
        "Save one or more images of this node to a tar archive (streamed to STDOUT by default)",
    ),
    "stats": ("container", "stats", "Display a live stream of container resource usage statistics"),
    "tag": ("image", "tag", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    "top": ("container", "top", "Display the running processes of a container"),
    "trace": (
        "network",
        "trace",
        "Show where a packet to a published port goes, and which way the answer comes back",
    ),
    "version": ("system", "version", "Show the version information"),
}
"""Commands at the top: the module and name of the command that they are."""

MANAGEMENT = ("container", "context", "image", "network", "volume")
SWARM = ("audit", "client-cert", "config", "node", "secret", "service", "swarm", "task")

GLOBAL_FLAGS = (
    Flag(
        "context",
        "Name of the context to use to connect to the daemon (overrides MINI_HOST env var and default context set with "
        '"minictl context use")',
        short="c",
        kind=values.STRING,
    ),
    Flag("host", "Daemon socket to connect to", short="H", kind=values.STRING),
    Flag("tlscacert", "Trust certs signed only by this CA", kind=values.STRING, shown='"~/.mini/ca.pem"'),
    Flag("tlscert", "Path to TLS certificate file", kind=values.STRING, shown='"~/.mini/cert.pem"'),
    Flag("tlskey", "Path to TLS key file", kind=values.STRING, shown='"~/.mini/key.pem"'),
    Flag("version", "Print version information and quit", short="v"),
)
