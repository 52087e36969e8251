"""The entry point: global flags, the command, and how errors end.

Nothing is imported before it is needed: `minictl --help` reads the tree and the help module, a command its own module,
and only what talks to a daemon opens a socket. Measured by `bench/cli.py`.
"""

from __future__ import annotations

import io
import os
import sys

from minicommon.errors import MiniError

from minictl import flags, tree
from minictl.errors import EXIT_FAILED, ArgumentsError, CliError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from minictl.client.channel import Channel
    from minictl.client.endpoint import Endpoint
    from minictl.command import Command
    from minictl.context import Context
    from minictl.flags import Parsed

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `minictl` with the process's own arguments and environment. Returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name in any script must not break an old locale
    try:
        code = run(words, os.environ)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`head`) has enough. Point stdout elsewhere, or the interpreter complains while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def run(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one command line."""
    try:
        options = flags.parse(tree.GLOBAL_FLAGS, words, interspersed=False)
    except UsageError as error:
        return _fail(
            f"{error}\n\nUsage:  minictl [OPTIONS] COMMAND [ARG...]\n\n{_more('minictl')}", error.exit_code
        )
    rest = options.arguments
    if options["version"] and not options.changed("help"):
        return _version_line()
    if rest[:1] == ["help"]:
        return _help(rest[1:])
    if options.changed("help"):
        return _help(rest)
    if not rest:
        return _help([])
    try:
        command, path, rest = _find(rest)
    except CliError as error:
        return _fail(str(error), error.exit_code)
    if command is None:
        return _help(path.split(" ")[1:], error=not rest)
    return _run_command(command, path, rest, options, environment)


def _find(words: Sequence[str]) -> tuple[Command | None, str, list[str]]:
    """The command that `words` begin with, its path, and the words after it; no command when only a group is named."""
    name, rest = words[0], list(words[1:])
    if name in tree.SHORTCUTS:
        module, target, _ = tree.SHORTCUTS[name]
        return _command(module, target), f"minictl {name}", rest
    for group in tree.GROUPS:
        if group.name != name:
            continue
        path = f"minictl {name}"
        if not rest or rest[0] in ("-h", "--help"):
            return None, path, rest
        two = " ".join(rest[:2])
        for command in group.commands():  # a name of two words before its first word alone
            if " " in command.name and two == command.name:
                return command, f"{path} {two}", rest[2:]
        for command in group.commands():
            if rest[0] == command.name or rest[0] in command.aliases:
                return command, f"{path} {command.name}", rest[1:]
        if rest[0].startswith("-"):
            raise UsageError(f"{_unknown_flag(rest[0])}\n\nUsage:  {path}\n\n{_more(path)}")
        raise ArgumentsError(f"minictl: unknown command: {path} {rest[0]}\n\nUsage:  {path}\n\n{_more(path)}")
    raise ArgumentsError(f"minictl: unknown command: minictl {name}\n\n{_more('minictl')}")


def _unknown_flag(word: str) -> str:
    if word.startswith("--"):
        return f"unknown flag: {word.partition('=')[0]}"
    return f"unknown shorthand flag: {word[1]!r} in {word}"


def _command(module: str, name: str) -> Command:
    commands: Sequence[Command] = __import__(f"minictl.commands.{module}", fromlist=["COMMANDS"]).COMMANDS
    return next(command for command in commands if command.name == name)


def _run_command(
    command: Command, path: str, words: Sequence[str], options: Parsed, environment: Mapping[str, str]
) -> int:
    try:
        parsed = flags.parse(command.flags, words, interspersed=command.interspersed)
    except UsageError as error:
        return _fail(f"{error}\n\nUsage:  {command.usage_line(path)}\n\n{_more(path)}", error.exit_code)
    if parsed.changed("help"):
        return _command_help(command, path)
    context = None
    try:
        command.check_count(path, len(parsed.arguments))
        context = _bare(environment) if path.startswith(_CONTEXT) else _context(options, environment)
        return command.run(context, parsed)
    except CliError as error:
        return _fail(str(error), error.exit_code)
    except MiniError as error:
        return _fail(describe(error), EXIT_FAILED)
    finally:
        if context is not None:
            context.close()


def describe(error: MiniError) -> str:
    """The text of an error, with Docker's prefix when a daemon sent it."""
    from minictl.client.endpoint import ConnectError, HostError

    if isinstance(error, CliError | ConnectError | HostError):
        return str(error)
    return f"Error response from daemon: {error}"


_CONTEXT = "minictl context "
"""Its commands need no cluster, and must work when the context in use is broken."""


def _bare(environment: Mapping[str, str]) -> Context:
    from minictl.client import endpoint
    from minictl.context import Context

    return Context(environment=environment, connect=lambda: _connect(endpoint.parse("", environment)))


def _context(options: Parsed, environment: Mapping[str, str]) -> Context:
    from minictl.client import endpoint
    from minictl.context import Context

    if options["host"] and options["context"]:
        raise CliError("conflicting options: cannot specify both --host and --context")
    name = options["context"]
    if not name and not options["host"] and not environment.get("MINI_HOST"):
        from minictl import contexts

        name = contexts.current(environment)
    ca, certificate, key = options["tlscacert"], options["tlscert"], options["tlskey"]
    text = options["host"] or environment.get("MINI_HOST", "")
    if name and name != "default":
        from minictl import contexts

        found = contexts.load(name, environment)
        text = found.host
        ca, certificate, key = ca or found.ca, certificate or found.certificate, key or found.key
    elif options["context"]:
        text = ""
    target = endpoint.parse(text, environment, ca=ca, certificate=certificate, key=key)
    return Context(environment=environment, connect=lambda: _connect(target), local=bool(target.path))


def _connect(target: Endpoint) -> Channel:
    from minictl.client.channel import FastChannel

    return FastChannel(target)


def _help(words: Sequence[str], *, error: bool = False) -> int:
    from minictl import help as help_text

    if not words:
        sys.stdout.write(help_text.top(help_text.terminal_width()))
        return 0
    try:
        command, path, _ = _find(words)
    except CliError as error:
        return _fail(str(error), error.exit_code)
    if command is not None:
        return _command_help(command, path)
    group = next(group for group in tree.GROUPS if group.name == words[0])
    (sys.stderr if error else sys.stdout).write(help_text.group(group))
    return 0


def _command_help(command: Command, path: str) -> int:
    from minictl import help as help_text

    sys.stdout.write(help_text.command(command, path, help_text.terminal_width()))
    return 0


def _version_line() -> int:
    from minicommon import __version__

    sys.stdout.write(f"minictl version {__version__}\n")
    return 0


def _more(path: str) -> str:
    return f"Run '{path} --help' for more information"


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    if message:
        sys.stderr.write(message + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
