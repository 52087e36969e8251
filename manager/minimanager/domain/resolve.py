"""What a user means by a reference: a full id, a name, or the beginning of an id, in this order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from minicommon.errors import InvalidArgumentError, NotFoundError

T = TypeVar("T")


def resolve(kind: str, ref: str, objects: Mapping[str, T], *, name: Callable[[T], str]) -> T:
    """The one of `objects` (by id) that `ref` means; `kind` is its word in messages.

    Raises NotFoundError when there is none, InvalidArgumentError when there are several or `ref` is empty.
    """
    if not ref:
        raise InvalidArgumentError(f"{kind}: a name or id must be given")
    if (exact := objects.get(ref)) is not None:
        return exact
    found = [each for each in objects.values() if name(each) == ref]
    if not found:
        found = [each for object_id, each in objects.items() if object_id.startswith(ref)]
    if not found:
        raise NotFoundError(f"{kind} {ref} not found")
    if len(found) > 1:
        raise InvalidArgumentError(f"{kind} {ref} is ambiguous ({len(found)} matches found)")
    return found[0]
