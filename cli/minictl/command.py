"""Commands as data: a tree of groups, and leaves that name their flags, their arguments and a function."""

from __future__ import annotations

from minictl.errors import ArgumentsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from minictl.context import Context
    from minictl.flags import Flag, Parsed


class Command:
    """A leaf: `arguments` is the usage after [OPTIONS], `least` and `most` say how many of them there may be."""

    __slots__ = (
        "aliases",
        "arguments",
        "flags",
        "interspersed",
        "least",
        "most",
        "name",
        "run",
        "show_options",
        "shown_aliases",
        "usage",
    )

    def __init__(
        self,
        name: str,
        usage: str,
        run: Callable[[Context, Parsed], int],
        *,
        arguments: str = "",
        least: int = 0,
        most: int | None = 0,
        flags: Sequence[Flag] = (),
        aliases: Sequence[str] = (),
        shown_aliases: Sequence[str] = (),
        interspersed: bool = True,
        show_options: bool = True,
    ) -> None:
        self.name = name
        self.usage = usage
        self.run = run
        self.arguments = arguments
        self.least = least
        self.most = most
        self.flags = flags
        self.aliases = aliases
        self.shown_aliases = shown_aliases
        self.interspersed = interspersed
        self.show_options = show_options

    def usage_line(self, path: str) -> str:
        """`minictl service rm SERVICE [SERVICE...]`."""
        parts = [path]
        if self.flags and self.show_options:
            parts.append("[OPTIONS]")
        if self.arguments:
            parts.append(self.arguments)
        return " ".join(parts)

    def check_count(self, path: str, count: int) -> None:
        """Raises ArgumentsError, in Docker's words, when the number of arguments is wrong."""
        if self.least <= count and (self.most is None or count <= self.most):
            return
        usage = f"\n\nUsage:  {self.usage_line(path)}\n\n"
        run = f"Run '{path} --help' for more information"
        if self.most == 0:
            raise ArgumentsError(f"minictl: '{path}' accepts no arguments{usage}{run}")
        if self.least == self.most:
            raise ArgumentsError(f"minictl: '{path}' requires {_arguments(self.least)}{usage}{run}")
        if self.most is None:
            see = f"See '{path} --help' for more information"
            raise ArgumentsError(f"minictl: '{path}' requires at least {_arguments(self.least)}{usage}{see}")
        least = f"at least {self.least} and " if self.least else ""
        raise ArgumentsError(f"minictl: '{path}' requires {least}at most {_arguments(self.most)}{usage}{run}")


def _arguments(count: int) -> str:
    return f"{count} argument" if count == 1 else f"{count} arguments"


class Group:
    """A command that has only commands; `module` in minictl.commands defines `COMMANDS`."""

    __slots__ = ("module", "name", "usage")

    def __init__(self, name: str, usage: str, module: str) -> None:
        self.name = name
        self.usage = usage
        self.module = module

    def commands(self) -> Sequence[Command]:
        """The group's commands, sorted by name; imports their module."""
        module = __import__(f"minictl.commands.{self.module}", fromlist=["COMMANDS"])
        commands: Sequence[Command] = module.COMMANDS
        return commands
