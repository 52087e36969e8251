"""`minictl task`: Docker has no such command; `service ps` and `node ps` list tasks, this shows and explains one."""

from __future__ import annotations

from minictl.command import Command
from minictl.commands import common, log_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.control_pb2 import TaskView

    from minictl.context import Context
    from minictl.flags import Parsed


def print_tasks(context: Context, parsed: Parsed, views: Iterable[TaskView]) -> None:
    """The list of `service ps` and `node ps`."""
    from minictl.output import listing
    from minictl.views import task

    rows = task.rows(
        views,
        now_ns=context.now_ns(),
        truncate=not (parsed["no-trunc"] or parsed["quiet"]),
        resolve=not parsed["no-resolve"],
        format=parsed["format"],
    )
    context.out.write(listing.render(task.LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"]))


def _inspect(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output.inspect import inspect
    from minictl.views import task

    def load(ref: str) -> dict[str, Any]:
        return task.to_json(context.call("Tasks/Get", messages.GetRequest(ref=ref)))

    return inspect(context, parsed.arguments, "task", load, format=parsed["format"])


def _why(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output.inspect import inspect
    from minictl.views import why

    def ask(ref: str) -> Any:
        return context.call("Tasks/Why", messages.GetRequest(ref=ref))

    if parsed["format"]:
        return inspect(
            context, parsed.arguments, "task", lambda ref: why.to_json(ask(ref)), format=parsed["format"]
        )
    (ref,) = parsed.arguments
    context.out.write(why.render(ask(ref)))
    return 0


def _logs(context: Context, parsed: Parsed) -> int:
    from minictl.commands import logs

    return logs.task_logs(context, parsed)


COMMANDS = (
    Command(
        "inspect",
        "Display detailed information on one or more tasks",
        _inspect,
        arguments="TASK [TASK...]",
        least=1,
        most=None,
        flags=(common.INSPECT_FORMAT,),
    ),
    Command(
        "logs",
        "Fetch the logs of a task",
        _logs,
        arguments="TASK",
        least=1,
        most=1,
        flags=log_flags.SERVICE_FLAGS,
    ),
    Command(
        "why",
        "Say why a task is where it is, node by node, and what would help",
        _why,
        arguments="TASK",
        least=1,
        most=1,
        flags=(common.INSPECT_FORMAT,),
    ),
)
