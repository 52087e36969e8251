"""What can go wrong on the CLI's own side, and the exit code of it.

Errors that came from a daemon are those of `minicommon.errors` and are printed with Docker's prefix.
"""

from __future__ import annotations

from minicommon.errors import MiniError

EXIT_FAILED = 1
EXIT_USAGE = 125
"""Docker's code for a command line whose flags cannot be parsed."""


class CliError(MiniError):
    """An error whose text is printed as it is."""

    exit_code = EXIT_FAILED


class UsageError(CliError):
    """Flags that cannot be parsed; the command's usage line follows."""

    exit_code = EXIT_USAGE


class ArgumentsError(CliError):
    """Too few or too many arguments, or an unknown command."""


class FailedError(CliError):
    """The work failed and all that is to be said has been printed, unless there is a text."""
