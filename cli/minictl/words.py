"""Words of a command line inside a string, as `--entrypoint` and `--args` take them: quoted as in a shell."""

from __future__ import annotations


def split(text: str) -> list[str]:
    """The words of `text`; `#` begins a comment. Raises ValueError for an open quote or a last backslash."""
    import shlex

    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        what = "closing quote" if "quotation" in str(error) else "escaped character"
        raise ValueError(f"EOF found when expecting {what}") from None
