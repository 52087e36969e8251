"""What the commands share: flags that look alike, filters, references, errors of several at once."""

from __future__ import annotations

from minicommon.errors import MiniError

from minictl import values
from minictl.errors import CliError, FailedError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from miniproto.v1.control_pb2 import Filter
    from miniproto.v1.objects_pb2 import Network

    from minictl.context import Context

_FORMATTING = (
    "Refer to https://docs.docker.com/go/formatting/ for more information "  # Go's syntax, Docker's fields
    "about formatting output with templates"
)

LIST_FORMAT = Flag(
    "format",
    "Format output using a custom template:\n"
    "'table':            Print output in table format with column headers (default)\n"
    "'table TEMPLATE':   Print output in table format using the given Go template\n"
    "'json':             Print in JSON format\n"
    f"'TEMPLATE':         Print output using the given Go template.\n{_FORMATTING}",
    kind=values.STRING,
)
INSPECT_FORMAT = Flag(
    "format",
    "Format output using a custom template:\n"
    "'json':             Print in JSON format\n"
    f"'TEMPLATE':         Print output using the given Go template.\n{_FORMATTING}",
    short="f",
    kind=values.STRING,
)
TASK_FORMAT = Flag("format", "Pretty-print tasks using a Go template", kind=values.STRING)
FILTER = Flag("filter", "Filter output based on conditions provided", short="f", kind=values.FILTER)
PRETTY = Flag("pretty", "Print the information in a human friendly format")
NO_TRUNC = Flag("no-trunc", "Do not truncate output")
NO_RESOLVE = Flag("no-resolve", "Do not map IDs to Names")
DETACH = Flag("detach", "Exit immediately instead of waiting for the service to converge", short="d")
AVAILABILITIES = ("active", "pause", "drain")

TASK_FLAGS = (
    FILTER,
    TASK_FORMAT,
    NO_RESOLVE,
    NO_TRUNC,
    Flag("quiet", "Only display task IDs", short="q"),
)


def quiet_flag(what: str = "IDs") -> Flag:
    return Flag("quiet", f"Only display {what}", short="q")


def filters(pairs: Iterable[tuple[str, str]]) -> list[Filter]:
    """The API's filters: values of the same key are alternatives."""
    from minictl.client import messages

    grouped: dict[str, list[str]] = {}
    for key, value in pairs:
        grouped.setdefault(key, []).append(value)
    return [messages.Filter(key=key, values=items) for key, items in grouped.items()]


def availability(text: str) -> int:
    """The API's number. Raises CliError."""
    name = text.lower()
    if name not in AVAILABILITIES:
        raise CliError(
            f"invalid availability {values.quote(text)}, only active, pause and drain are supported"
        )
    return AVAILABILITIES.index(name)


def node_reference(context: Context, ref: str) -> str:
    """`ref`, or this node's id for `self`. Raises CliError when there is no such thing as this node."""
    if ref != "self":
        return ref
    from minictl.client import messages

    if not context.local:
        raise CliError("there is no node `self` on a remote manager: name the node")
    node_id: str = context.call("LocalNode/Info", messages.InfoRequest()).node_id
    if not node_id:
        raise CliError(NOT_A_MEMBER)
    return node_id


def confirmed(context: Context, warning: str) -> bool:
    """Ask whether to go on after the warning; no answer is a no."""
    import sys

    context.out.write(f"{warning}Are you sure you want to continue? [y/N] ")
    context.out.flush()
    return sys.stdin.readline().strip().lower() == "y"


def network_id(context: Context, ref: str) -> str:
    """The id of the network that `ref` means."""
    from minictl.client import messages

    found: str = context.call("Networks/Get", messages.GetRequest(ref=ref)).id
    return found


def networks(context: Context) -> dict[str, Network]:
    """All networks by id."""
    from minictl.client import messages

    response = context.call("Networks/List", messages.ListRequest())
    return {network.id: network for network in response.networks}


NOT_A_MEMBER = (
    'This node is not a swarm manager. Use "minictl swarm init" or "minictl swarm join" to connect this node to swarm '
    "and try again."
)


def local_node_id(context: Context) -> str:
    """This node's id, "" where that means nothing: elsewhere, and on a manager's own socket."""
    from minictl.client import messages
    from minictl.client.status import UnimplementedError

    if not context.local:
        return ""
    try:
        node_id: str = context.call("LocalNode/Info", messages.InfoRequest()).node_id
    except UnimplementedError:
        return ""
    return node_id


def for_each(items: Sequence[str], work: Callable[[str], None]) -> int:
    """Do `work` for all items, even when some fail. Raises FailedError with all errors, one a line."""
    from minictl.main import describe

    failures = []
    for item in items:
        try:
            work(item)
        except MiniError as error:
            if isinstance(error, CliError):
                failures.append(str(error))
            else:
                failures.append(describe(error))
    if failures:
        raise FailedError("\n".join(failures))
    return 0
