"""`minictl exec`, `attach` and `run`: what they ask, and how they end."""

from __future__ import annotations

import sys

from minicommon.errors import FailedPreconditionError, MiniError

from minictl import terminal
from minictl.conversation import Conversation, DetachedError
from minictl.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.streams_pb2 import StreamOutput

    from minictl.context import Context
    from minictl.flags import Parsed

EXIT_DAEMON = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
"""Docker's codes of a container or command that could not be started."""

_EXEC_FAILED = "OCI runtime exec failed"


def execute(context: Context, parsed: Parsed) -> int:
    """`minictl exec`."""
    from minictl import keyvalues
    from minictl.client import messages

    ref, *command = parsed.arguments
    interactive = parsed["interactive"] and not parsed["detach"]
    check_tty(interactive, tty=parsed["tty"])
    variables = [
        item for path in parsed["env-file"] for item in keyvalues.read_env_file(path, context.environment)
    ]
    variables += keyvalues.resolve_env(parsed["env"], context.environment)
    options = messages.ExecQuery(
        command=command,
        tty=parsed["tty"],
        stdin=interactive,
        detach=parsed["detach"],
        user=parsed["user"],
        dir=parsed["workdir"],
        env=keyvalues.last_of_each(variables),
    )
    set_size(options, tty=parsed["tty"])
    call = context.channel.duplex("Containers/Exec")
    call.send(messages.ExecInput(start=messages.ExecStart(ref=ref, options=options)))
    try:
        if parsed["detach"]:
            while call.receive() is not None:
                pass
            return 0
        return Conversation(
            call,
            lambda message: messages.ExecInput(input=message),
            _itself,
            stdin=interactive,
            tty=parsed["tty"],
            detach_keys=parsed["detach-keys"],
        ).run()
    except FailedPreconditionError as error:
        if not error.message.startswith(_EXEC_FAILED):
            raise
        context.warn(error.message)
        return start_code(error.message)


def attach(context: Context, parsed: Parsed) -> int:
    """`minictl attach`."""
    from minictl.client import messages

    (ref,) = parsed.arguments
    info = context.call("Containers/Inspect", messages.InspectContainerRequest(ref=ref)).info
    if info.status != "running":
        raise CliError("You cannot attach to a stopped container, start it first")
    stdin = info.open_stdin and not parsed["no-stdin"]
    check_tty(stdin, tty=info.tty)
    options = messages.AttachQuery(stdin=stdin)
    set_size(options, tty=info.tty)
    call = context.channel.duplex("Containers/Attach")
    call.send(messages.AttachInput(start=messages.AttachStart(ref=info.id, options=options)))
    return Conversation(
        call,
        lambda message: messages.AttachInput(input=message),
        _itself,
        stdin=stdin,
        tty=info.tty,
        forward_signals=parsed["sig-proxy"],
        detach_keys=parsed["detach-keys"],
    ).run()


def run(context: Context, parsed: Parsed) -> int:
    """`minictl run`."""
    from minictl import run_flags
    from minictl.client import messages

    interactive = parsed["interactive"] and not parsed["detach"]
    check_tty(interactive, tty=parsed["tty"])
    start = messages.RunStart(
        spec=run_flags.new_spec(parsed, context),
        detach=parsed["detach"],
        remove=parsed["rm"],
        stdin=parsed["interactive"],
    )
    set_size(start, tty=parsed["tty"])
    call = context.channel.duplex("Containers/Run")
    call.send(messages.RunInput(start=start))
    try:
        if parsed["detach"]:
            return _detached(context, call)
        return Conversation(
            call,
            lambda message: messages.RunInput(input=message),
            lambda response: _output(context, response),
            stdin=interactive,
            tty=parsed["tty"],
            forward_signals=parsed["sig-proxy"],
            detach_keys=parsed["detach-keys"],
        ).run()
    except DetachedError:
        raise
    except MiniError as error:
        from minictl.main import describe

        context.warn(f"minictl: {describe(error)}")
        return start_code(str(error))


def _detached(context: Context, call: Any) -> int:
    task_id = ""
    while (response := call.receive()) is not None:
        task_id = response.task_id or task_id
        _output(context, response)
    context.print(task_id)
    return 0


def _output(context: Context, response: Any) -> StreamOutput | None:
    if response.progress:
        context.warn(f"waiting for a node: {response.progress}")
    if response.warning:
        context.warn(f"WARNING: {response.warning}")
    return response.output if response.HasField("output") else None


def _itself(response: Any) -> StreamOutput:
    found: StreamOutput = response
    return found


def check_tty(interactive: bool, *, tty: bool) -> None:
    """Raises CliError for a terminal that standard input cannot be, in Docker's words."""
    if interactive and tty and not sys.stdin.isatty():
        raise CliError("the input device is not a TTY")


def set_size(message: Any, *, tty: bool) -> None:
    """Tell the terminal's size, when it has one."""
    rows, columns = terminal.size() if tty else (0, 0)
    if rows and columns:
        message.size.rows, message.size.columns = rows, columns


def start_code(text: str) -> int:
    """Docker's exit code for what could not be started."""
    if "executable file not found" in text or "no such file or directory" in text:
        return EXIT_NOT_FOUND
    return EXIT_NOT_EXECUTABLE if "exec: " in text or "permission denied" in text else EXIT_DAEMON
