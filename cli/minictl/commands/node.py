"""`minictl node`."""

from __future__ import annotations

from minictl import values
from minictl.command import Command
from minictl.commands import common
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.objects_pb2 import NodeSpec

    from minictl.context import Context
    from minictl.flags import Parsed


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output import listing
    from minictl.views import node

    request = messages.ListRequest(filters=common.filters(parsed["filter"]))
    response = context.call("Nodes/List", request)
    self_id = "" if parsed["quiet"] else common.local_node_id(context)
    rows = node.rows(response.nodes, self_id=self_id)
    context.out.write(listing.render(node.LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _inspect(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output.inspect import inspect
    from minictl.views import node

    def get(ref: str) -> Any:
        return context.call("Nodes/Get", messages.GetRequest(ref=common.node_reference(context, ref)))

    if parsed["pretty"]:
        if parsed["format"]:
            raise CliError("--format is incompatible with human friendly format")
        return common.for_each(parsed.arguments, lambda ref: context.print(node.pretty(get(ref))))
    return inspect(
        context, parsed.arguments, "node", lambda ref: node.to_json(get(ref)), format=parsed["format"]
    )


def _ps(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.commands.task import print_tasks
    from minictl.errors import FailedError

    nodes = []

    def find(ref: str) -> None:
        reference = common.node_reference(context, ref)
        nodes.append(context.call("Nodes/Get", messages.GetRequest(ref=reference)).node.id)

    failure = None
    try:
        common.for_each(parsed.arguments or ["self"], find)
    except FailedError as error:
        failure = error
    if nodes:
        pairs = [*parsed["filter"], *(("node", node_id) for node_id in nodes)]
        response = context.call("Tasks/List", messages.ListRequest(filters=common.filters(pairs)))
        print_tasks(context, parsed, response.tasks)
    if failure is not None:
        raise failure
    return 0


def _rm(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    def remove(ref: str) -> None:
        context.call("Nodes/Remove", messages.RemoveNodeRequest(ref=ref, force=parsed["force"]))
        context.print(ref)

    return common.for_each(parsed.arguments, remove)


def _update(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    (ref,) = parsed.arguments
    node = context.call("Nodes/Get", messages.GetRequest(ref=common.node_reference(context, ref))).node
    change_spec(node.spec, parsed)
    context.call(
        "Nodes/Update", messages.UpdateNodeRequest(ref=node.id, version=node.meta.version, spec=node.spec)
    )
    context.print(ref)
    return 0


def change_spec(spec: NodeSpec, parsed: Parsed) -> None:
    """Apply the flags. Raises CliError."""
    from minictl.keyvalues import labels

    if parsed.changed("availability"):
        number: Any = common.availability(parsed["availability"])
        spec.availability = number
    for key, value in labels(parsed["label-add"]).items():
        spec.labels[key] = value
    for key in parsed["label-rm"]:
        if key not in spec.labels:
            raise CliError(f"key {key} doesn't exist in node's labels")
        del spec.labels[key]


COMMANDS = (
    Command(
        "inspect",
        "Display detailed information on one or more nodes",
        _inspect,
        arguments="self|NODE [NODE...]",
        least=1,
        most=None,
        flags=(common.INSPECT_FORMAT, common.PRETTY),
    ),
    Command(
        "ls",
        "List nodes in the swarm",
        _ls,
        aliases=("list",),
        shown_aliases=("minictl node ls", "minictl node list"),
        flags=(common.FILTER, common.LIST_FORMAT, common.quiet_flag()),
    ),
    Command(
        "ps",
        "List tasks running on one or more nodes, defaults to current node",
        _ps,
        arguments="[NODE...]",
        most=None,
        flags=common.TASK_FLAGS,
    ),
    Command(
        "rm",
        "Remove one or more nodes from the swarm",
        _rm,
        arguments="NODE [NODE...]",
        least=1,
        most=None,
        aliases=("remove",),
        shown_aliases=("minictl node rm", "minictl node remove"),
        flags=(Flag("force", "Force remove a node from the swarm", short="f"),),
    ),
    Command(
        "update",
        "Update a node",
        _update,
        arguments="NODE",
        least=1,
        most=1,
        flags=(
            Flag("availability", 'Availability of the node ("active", "pause", "drain")', kind=values.STRING),
            Flag("label-add", 'Add or update a node label ("key=value")', kind=values.LABEL),
            Flag("label-rm", "Remove a node label if exists", kind=values.LIST),
            Flag("role", 'Role of the node ("worker", "manager")', kind=values.STRING, later=True),
        ),
    ),
)
