"""`minictl network`."""

from __future__ import annotations

from minicommon.errors import NotFoundError

from minictl import values
from minictl.command import Command
from minictl.commands import common
from minictl.errors import CliError
from minictl.flags import Flag
from minictl.output import listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minictl.context import Context
    from minictl.flags import Parsed

DRIVER = "overlay"
"""The only one that there is. Docker's default is `bridge`, which belongs to one node and no service can use."""

_PRUNE_WARNING = "WARNING! This will remove all custom networks not used by at least one container.\n"


def _create(context: Context, parsed: Parsed) -> int:
    from minictl import keyvalues
    from minictl.client import messages

    (name,) = parsed.arguments
    _check_create(parsed)
    spec = messages.NetworkSpec(
        name=name,
        labels=keyvalues.labels(parsed["label"]),
        driver=parsed["driver"] or DRIVER,
        ingress=parsed["ingress"],
        attachable=parsed["attachable"],
        internal=parsed["internal"],
        subnet=_one(parsed, "subnet"),
        gateway=_one(parsed, "gateway"),
        ip_range=_one(parsed, "ip-range"),
        options=keyvalues.labels(parsed["opt"]),
    )
    context.print(context.call("Networks/Create", messages.CreateNetworkRequest(spec=spec)).id)
    return 0


def _check_create(parsed: Parsed) -> None:
    """Refuse what only another driver or scope could do. Raises CliError."""
    if parsed["ipam-driver"] not in ("", "default"):
        raise CliError(
            f"unsupported IPAM driver {values.quote(parsed['ipam-driver'])}: there is only default"
        )
    if parsed["scope"] not in ("", "swarm"):
        raise CliError(f"unsupported scope {values.quote(parsed['scope'])}: networks span the swarm")
    if not parsed["ipv4"]:
        raise CliError("networks without IPv4 are not supported")
    if parsed["ipv6"]:
        raise CliError("IPv6 networks are not supported")


def _one(parsed: Parsed, flag: str) -> str:
    """The value of a flag that Docker lets be given for IPv4 and IPv6. Raises CliError when there are several."""
    given = _all(parsed[flag])
    if len(given) > 1:
        raise CliError(f"--{flag}: a network has one IPv4 subnet, {len(given)} values were given")
    return given[0] if given else ""


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import network

    request = messages.ListRequest(filters=common.filters(parsed["filter"]))
    response = context.call("Networks/List", request)
    truncate = not parsed["no-trunc"]
    rows = network.rows(response.networks, truncate=truncate)
    context.out.write(listing.render(network.LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _inspect(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output.inspect import inspect
    from minictl.views import network

    def load(ref: str) -> dict[str, Any]:
        view = context.call("Networks/GetDetails", messages.GetRequest(ref=ref))
        shown = network.to_json(view, verbose=parsed["verbose"])
        if parsed["format"] not in ("", "json"):
            shown["ID"] = shown["Id"]  # Docker's templates know the field by both names
        return shown

    return inspect(context, parsed.arguments, "network", load, format=parsed["format"])


def _rm(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    def remove(ref: str) -> None:
        try:
            context.call("Networks/Remove", messages.RemoveNetworkRequest(ref=ref))
        except NotFoundError:
            if not parsed["force"]:
                raise
        context.print(ref)

    return common.for_each(parsed.arguments, remove)


def _connect(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    ref, container = parsed.arguments
    request = messages.ConnectNetworkRequest(ref=ref, container=container, aliases=_all(parsed["alias"]))
    context.call("Networks/Connect", request)
    return 0


def _disconnect(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    ref, container = parsed.arguments
    context.call("Networks/Disconnect", messages.DisconnectNetworkRequest(ref=ref, container=container))
    return 0


def _all(groups: list[list[str]]) -> list[str]:
    """The values of a flag that may be given several times, and each time several."""
    return [text.strip() for group in groups for text in group]


def _prune(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    if not parsed["force"] and not common.confirmed(context, _PRUNE_WARNING):
        return 0
    request = messages.PruneNetworksRequest(filters=common.filters(parsed["filter"]))
    response = context.call("Networks/Prune", request)
    if response.removed:
        context.print("Deleted Networks:")
        for network in response.removed:
            context.print(network.spec.name)
        context.print()
    return 0


def _texts(text: str) -> list[str]:
    return text.split(",")


_STRINGS = values.Kind("strings", _texts, repeat=True)
_MAP = values.Kind("map", str, repeat=True)

CREATE_FLAGS = (
    Flag("attachable", "Enable manual container attachment"),
    Flag("aux-address", "", kind=_MAP, later=True),
    Flag("config-from", "", kind=values.STRING, later=True),
    Flag("config-only", "", later=True),
    Flag("driver", "Driver to manage the Network", short="d", kind=values.STRING, shown=f'"{DRIVER}"'),
    Flag("gateway", "IPv4 Gateway for the master subnet", kind=_STRINGS),
    Flag("ingress", "Create swarm routing-mesh network"),
    Flag("internal", "Restrict external access to the network"),
    Flag("ip-range", "Allocate container ip from a sub-range", kind=_STRINGS),
    Flag("ipam-driver", "IP Address Management Driver", kind=values.STRING, shown='"default"'),
    Flag("ipam-opt", "", kind=_MAP, later=True),
    Flag("ipv4", "Enable or disable IPv4 address assignment", default=True, shown="true"),
    Flag("ipv6", "Enable or disable IPv6 address assignment"),
    Flag("label", "Set metadata on a network", kind=values.LABEL),
    Flag("opt", "Set driver specific options", short="o", kind=_MAP, shown="map[]"),
    Flag("scope", "Control the network's scope", kind=values.STRING),
    Flag("subnet", "Subnet in CIDR format that represents a network segment", kind=_STRINGS),
)

CONNECT_FLAGS = (
    Flag("alias", "Add network-scoped alias for the container", kind=_STRINGS),
    Flag("driver-opt", "", kind=_STRINGS, later=True),
    Flag("gw-priority", "", kind=values.STRING, later=True),
    Flag("ip", "", kind=values.STRING, later=True),
    Flag("ip6", "", kind=values.STRING, later=True),
    Flag("link", "", kind=_STRINGS, later=True),
    Flag("link-local-ip", "", kind=_STRINGS, later=True),
)

COMMANDS = (
    Command(
        "connect",
        "Connect a container to a network",
        _connect,
        arguments="NETWORK CONTAINER",
        least=2,
        most=2,
        flags=CONNECT_FLAGS,
    ),
    Command(
        "create",
        "Create a network",
        _create,
        arguments="NETWORK",
        least=1,
        most=1,
        flags=CREATE_FLAGS,
    ),
    Command(
        "disconnect",
        "Disconnect a container from a network",
        _disconnect,
        arguments="NETWORK CONTAINER",
        least=2,
        most=2,
        flags=(Flag("force", "Force the container to disconnect from a network", short="f"),),
    ),
    Command(
        "inspect",
        "Display detailed information on one or more networks",
        _inspect,
        arguments="NETWORK [NETWORK...]",
        least=1,
        most=None,
        flags=(
            common.INSPECT_FORMAT,
            Flag("verbose", "Verbose output for diagnostics", short="v"),
        ),
    ),
    Command(
        "ls",
        "List networks",
        _ls,
        aliases=("list",),
        shown_aliases=("minictl network ls", "minictl network list"),
        flags=(
            Flag(
                "filter", 'Provide filter values (e.g. "driver=overlay")', short="f", kind=common.FILTER.kind
            ),
            common.LIST_FORMAT,
            Flag("no-trunc", "Do not truncate the output"),
            common.quiet_flag("network IDs"),
        ),
    ),
    Command(
        "prune",
        "Remove all unused networks",
        _prune,
        flags=(
            Flag("filter", 'Provide filter values (e.g. "until=<timestamp>")', kind=common.FILTER.kind),
            Flag("force", "Do not prompt for confirmation", short="f"),
        ),
    ),
    Command(
        "rm",
        "Remove one or more networks",
        _rm,
        arguments="NETWORK [NETWORK...]",
        least=1,
        most=None,
        aliases=("remove",),
        shown_aliases=("minictl network rm", "minictl network remove"),
        flags=(Flag("force", "Do not error if the network does not exist", short="f"),),
    ),
)
