"""Who a container runs as: `user[:group]` and extra groups, looked up in the image's own passwd and group files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from miniworker.runtime.api import RuntimeFaultError

_MAX_ID = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Identity:
    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary ones."""
    home: str


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def identify(user: str, groups: Iterable[str], *, passwd: str, group: str) -> Identity:
    """Resolve names and numbers as Docker does; empty means root.

    A number needs no entry; a name does. Raises RuntimeFaultError, naming what was not found.
    """
    accounts, known = _accounts(passwd), _groups(group)
    who, _, group_part = user.partition(":")
    account = _account(who or "0", accounts)
    gid = _gid(group_part, known) if group_part else account.gid
    supplementary = {_gid(item, known) for item in groups}
    if not group_part:
        supplementary |= {item.gid for item in known if account.name and account.name in item.members}
    return Identity(account.uid, gid, tuple(sorted(supplementary)), account.home or "/")


def _account(who: str, accounts: tuple[_Account, ...]) -> _Account:
    for account in accounts:
        if who == account.name:
            return account
    number = _number(who)
    if number is None:
        raise RuntimeFaultError(f"unable to find user {who}: no matching entries in passwd file")
    for account in accounts:
        if account.uid == number:
            return account
    return _Account("", number, 0, "/root" if number == 0 else "/")


def _gid(text: str, known: tuple[_Group, ...]) -> int:
    for group in known:
        if text == group.name:
            return group.gid
    number = _number(text)
    if number is None:
        raise RuntimeFaultError(f"unable to find group {text}: no matching entries in group file")
    return number


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if int(text) > _MAX_ID:
        raise RuntimeFaultError(f"uids and gids must be in range 0-{_MAX_ID}, not {text}")
    return int(text)


def _accounts(passwd: str) -> tuple[_Account, ...]:
    rows = (line.split(":") for line in passwd.splitlines())
    return tuple(
        _Account(row[0], int(row[2]), int(row[3]), row[5])
        for row in rows
        if len(row) >= 6 and row[0] and row[2].isdigit() and row[3].isdigit()
    )


def _groups(group: str) -> tuple[_Group, ...]:
    rows = (line.split(":") for line in group.splitlines())
    return tuple(
        _Group(row[0], int(row[2]), tuple(name for name in row[3].split(",") if name))
        for row in rows
        if len(row) >= 4 and row[0] and row[2].isdigit()
    )
