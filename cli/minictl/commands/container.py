"""`minictl container`, whose commands are also at the top: containers on all nodes."""

from __future__ import annotations

from minictl import run_flags, values
from minictl.command import Command
from minictl.commands import common, log_flags
from minictl.flags import Flag
from minictl.terminal import DETACH_KEYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minictl.context import Context
    from minictl.flags import Parsed


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output import listing
    from minictl.views import ps

    pairs = [
        (key, common.node_reference(context, value)) if key == "node" else (key, value)
        for key, value in parsed["filter"]
    ]
    count = 1 if parsed["latest"] else parsed["last"]
    request = messages.ListContainersRequest(
        all=parsed["all"] or count is not None, filters=common.filters(pairs)
    )
    response = context.call("Containers/List", request)
    for warning in response.warnings:
        context.warn(f"WARNING: {warning}")
    chosen = list(response.containers)[: count if count is not None and count >= 0 else None]
    rows = ps.rows(chosen, now_ns=context.now_ns(), truncate=not parsed["no-trunc"])
    context.out.write(listing.render(ps.LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _inspect(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output.inspect import inspect
    from minictl.views import ps

    def load(ref: str) -> dict[str, Any]:
        return ps.to_json(context.call("Containers/Inspect", messages.InspectContainerRequest(ref=ref)))

    return inspect(context, parsed.arguments, "container", load, format=parsed["format"])


def _top(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output.table import align

    ref, *arguments = parsed.arguments
    table = context.call("Containers/Top", messages.TopRequest(ref=ref, arguments=arguments))
    context.out.write(align([list(table.titles), *(list(row.cells) for row in table.processes)]))
    return 0


def _stats(context: Context, parsed: Parsed) -> int:
    from minictl.commands import stats

    return stats.stats(context, parsed)


def _exec(context: Context, parsed: Parsed) -> int:
    from minictl.commands import talking

    return talking.execute(context, parsed)


def _attach(context: Context, parsed: Parsed) -> int:
    from minictl.commands import talking

    return talking.attach(context, parsed)


def _run(context: Context, parsed: Parsed) -> int:
    from minictl.commands import talking

    return talking.run(context, parsed)


def _logs(context: Context, parsed: Parsed) -> int:
    from minictl.commands import logs

    return logs.container_logs(context, parsed)


def _commit(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    ref, reference = (*parsed.arguments, "")[:2]
    options = messages.CommitQuery(
        reference=reference,
        author=parsed["author"],
        message=parsed["message"],
        changes=parsed["change"],
        no_pause=not parsed["pause"],
    )
    image = context.call(
        "Containers/Commit", messages.CommitRequest(ref=ref, options=options), timeout=_COMMIT_SECONDS
    )
    context.print(image.id)
    return 0


def _cp(context: Context, parsed: Parsed) -> int:
    from minictl.commands import copying

    return copying.copy(context, parsed)


def _port_forward(context: Context, parsed: Parsed) -> int:
    from minictl.commands import forward

    return forward.port_forward(context, parsed)


def _rm(context: Context, parsed: Parsed) -> int:
    """Only containers of `run` can be removed by themselves; those of services belong to these."""
    from minictl.client import messages
    from minictl.errors import CliError

    def remove(ref: str) -> None:
        info = context.call("Containers/Inspect", messages.InspectContainerRequest(ref=ref)).info
        if not info.one_off:
            raise CliError(
                f"container {ref} belongs to service {info.service_name}: scale or remove the service instead"
            )
        if info.status == "running" and not parsed["force"]:
            raise CliError(
                f"cannot remove container {ref}: container is running: "
                "stop the container before removing or force remove"
            )
        context.call("Services/Remove", messages.RemoveServiceRequest(ref=info.service_name))
        context.print(ref)

    return common.for_each(parsed.arguments, remove)


_COMMIT_SECONDS = 600.0
"""A container may have written a lot."""

_KEYS = Flag(
    "detach-keys",
    "Override the key sequence for detaching a container",
    kind=values.STRING,
    default=DETACH_KEYS,
)

COMMANDS = (
    Command(
        "attach",
        "Attach local standard input, output, and error streams to a running container",
        _attach,
        arguments="CONTAINER",
        least=1,
        most=1,
        flags=(
            _KEYS,
            Flag("no-stdin", "Do not attach STDIN"),
            Flag("sig-proxy", "Proxy all received signals to the process", default=True, shown="true"),
        ),
    ),
    Command(
        "commit",
        "Create a new image from a container's changes, on the node that has the container",
        _commit,
        arguments="CONTAINER [REPOSITORY[:TAG]]",
        least=1,
        most=2,
        flags=(
            Flag(
                "author",
                'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")',
                short="a",
                kind=values.STRING,
            ),
            Flag("change", "Apply Dockerfile instruction to the created image", short="c", kind=values.LIST),
            Flag("message", "Commit message", short="m", kind=values.STRING),
            Flag("pause", "Pause container during commit", short="p", default=True, shown="true"),
        ),
    ),
    Command(
        "cp",
        "Copy files/folders between a container and the local filesystem",
        _cp,
        arguments="CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH",
        least=2,
        most=2,
        flags=(
            Flag("archive", "Archive mode (copy all uid/gid information)", short="a"),
            Flag("follow-link", "Always follow symbol link in SRC_PATH", short="L"),
            Flag("quiet", "Suppress progress output during copy", short="q"),
        ),
    ),
    Command(
        "exec",
        "Execute a command in a running container",
        _exec,
        arguments="CONTAINER COMMAND [ARG...]",
        least=2,
        most=None,
        interspersed=False,
        flags=(
            Flag("detach", "Detached mode: run command in the background", short="d"),
            _KEYS,
            Flag("env", "Set environment variables", short="e", kind=values.ENV),
            Flag("env-file", "Read in a file of environment variables", kind=values.LIST),
            Flag("interactive", "Keep STDIN open even if not attached", short="i"),
            Flag("privileged", "", later=True),
            Flag("tty", "Allocate a pseudo-TTY", short="t"),
            Flag(
                "user", 'Username or UID (format: "<name|uid>[:<group|gid>]")', short="u", kind=values.STRING
            ),
            Flag("workdir", "Working directory inside the container", short="w", kind=values.STRING),
        ),
    ),
    Command(
        "inspect",
        "Display detailed information on one or more containers",
        _inspect,
        arguments="CONTAINER [CONTAINER...]",
        least=1,
        most=None,
        flags=(common.INSPECT_FORMAT,),
    ),
    Command(
        "logs",
        "Fetch the logs of a container",
        _logs,
        arguments="CONTAINER",
        least=1,
        most=1,
        flags=log_flags.CONTAINER_FLAGS,
    ),
    Command(
        "ls",
        "List containers",
        _ls,
        aliases=("ps", "list"),
        shown_aliases=("minictl container ls", "minictl container list", "minictl ps"),
        flags=(
            Flag("all", "Show all containers (default shows just running)", short="a"),
            common.FILTER,
            common.LIST_FORMAT,
            Flag("last", "Show n last created containers (includes all states)", short="n", kind=values.INT),
            Flag("latest", "Show the latest created container (includes all states)", short="l"),
            common.NO_TRUNC,
            common.quiet_flag("container IDs"),
            Flag("size", "", short="s", later=True),
        ),
    ),
    Command(
        "port-forward",
        "Forward local ports to ports of a container, wherever it runs",
        _port_forward,
        arguments="CONTAINER [LOCAL_PORT:]PORT [[LOCAL_PORT:]PORT...]",
        least=2,
        most=None,
        flags=(
            Flag(
                "address",
                "Address to listen on",
                kind=values.STRING,
                default="127.0.0.1",
                shown='"127.0.0.1"',
            ),
        ),
    ),
    Command(
        "rm",
        "Remove one or more containers of `minictl run`",
        _rm,
        arguments="CONTAINER [CONTAINER...]",
        least=1,
        most=None,
        aliases=("remove",),
        shown_aliases=("minictl container rm", "minictl container remove", "minictl rm"),
        flags=(Flag("force", "Force the removal of a running container", short="f"),),
    ),
    Command(
        "run",
        "Create and run a new container from an image",
        _run,
        arguments="IMAGE [COMMAND] [ARG...]",
        least=1,
        most=None,
        interspersed=False,
        flags=run_flags.FLAGS,
    ),
    Command(
        "stats",
        "Display a live stream of container resource usage statistics",
        _stats,
        arguments="[CONTAINER...]",
        most=None,
        flags=(
            common.LIST_FORMAT,
            Flag("no-stream", "Disable streaming stats and only pull the first result"),
            common.NO_TRUNC,
        ),
    ),
    Command(
        "top",
        "Display the running processes of a container",
        _top,
        arguments="CONTAINER [ps OPTIONS]",
        least=1,
        most=None,
        interspersed=False,
    ),
)
