"""A typed transaction: what it wants of which object, collected first and committed by the `Writer`.

Everything in it happens or nothing does. An object that is written or guarded must still be at the version
(`meta.version`) that the decision saw; one that is created, and a claim, must not exist.
"""

from __future__ import annotations

from collections.abc import Mapping

from minicommon.errors import ConflictError

from minimanager import codec
from minimanager.domain.objects import Object
from minimanager.store.api import Compare, Delete, KeyValue, Operation, Put, Txn, TxnResult
from minimanager.store.keys import Keys, Kind, ObjectKey


class StaleError(ConflictError):
    """Objects changed since they were read. `keys` are those whose comparison failed."""

    def __init__(self, keys: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.keys = keys


class ClaimTakenError(ConflictError):
    """A name, port or address has an owner already; `owner` is that object's id."""

    def __init__(self, key: str, owner: str) -> None:
        super().__init__(f"{key} is taken by {owner}")
        self.key = key
        self.owner = owner


class FencedError(ConflictError):
    """The writer is not the leader any more; another one may be."""


class Transaction:
    """Builder of one transaction. The same key twice is an error of the program: ValueError."""

    __slots__ = ("_claims", "_compares", "_keys", "_operations")

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._compares: dict[str, Compare] = {}
        self._operations: dict[str, Operation] = {}
        self._claims: set[str] = set()

    # --- objects ---

    def create(self, obj: Object) -> Transaction:
        """Write an object that must not exist yet."""
        key = self._keys.of(obj)
        return self._compare(key, 0)._operate(Put(key, codec.encode(obj)))

    def replace(self, obj: Object) -> Transaction:
        """Write an object, provided it is still at `obj.meta.version`."""
        key = self._keys.of(obj)
        return self._compare(key, _version(key, obj))._operate(Put(key, codec.encode(obj)))

    def save(self, obj: Object) -> Transaction:
        """`create` an object that was not read from the store, `replace` one that was."""
        return self.replace(obj) if obj.meta.version else self.create(obj)

    def delete(self, obj: Object) -> Transaction:
        """Remove an object, provided it is still at `obj.meta.version`."""
        key = self._keys.of(obj)
        return self._compare(key, _version(key, obj))._operate(Delete(key))

    def delete_id(self, kind: Kind, object_id: str, *, version: int | None) -> Transaction:
        """Remove an object by its id, provided it is still at `version`; None: whatever it is, or if it is at all."""
        key = self._keys.object(kind, object_id)
        if version is not None:
            self._compare(key, version)
        return self._operate(Delete(key))

    def guard(self, obj: Object) -> Transaction:
        """Leave the object as it is, but commit only while it is at `obj.meta.version`."""
        key = self._keys.of(obj)
        return self._compare(key, _version(key, obj))

    def guard_id(self, kind: Kind, object_id: str, *, version: int) -> Transaction:
        """As `guard`; version 0: the object must not exist."""
        return self._compare(self._keys.object(kind, object_id), version)

    # --- claims ---

    def claim(self, key: str, owner_id: str) -> Transaction:
        """Take a claim of `Keys`, which must be free, for the object `owner_id`."""
        self._claims.add(key)
        return self._compare(key, 0)._operate(Put(key, owner_id.encode()))

    def release(self, key: str, *, version: int | None = None) -> Transaction:
        """Give a claim back.

        Without `version`, the revision of the claim itself, the transaction must write or guard the owner by its
        version, or the claim may be somebody else's by now.
        """
        if version is not None:
            self._compare(key, version)
        return self._operate(Delete(key))

    def turn(self, key: str, *, version: int) -> Transaction:
        """Commit only if nobody has had the turn since `version`, the key's revision; 0: nobody ever had."""
        return self._compare(key, version)._operate(Put(key, b""))

    # --- contents and uses ---

    def put_content(self, key: str, sealed: bytes) -> Transaction:
        """Write a sealed content, at one of the keys that `Keys` has for them, where none must be yet."""
        return self._compare(key, 0)._operate(Put(key, sealed))

    def delete_content(self, key: str) -> Transaction:
        """Remove a sealed content. The transaction must write or guard the owner by its version."""
        return self._operate(Delete(key))

    def begin_use(self, kind: Kind, object_id: str) -> Transaction:
        """Say that something begins to use the object; guard the object itself besides."""
        return self._operate(Put(self._keys.use(kind, object_id), b""))

    def end_uses(self, kind: Kind, object_id: str, *, version: int) -> Transaction:
        """Commit only if nothing has begun to use the object since `version`, the revision of its key of uses."""
        key = self._keys.use(kind, object_id)
        return self._compare(key, version)._operate(Delete(key))

    def barrier(self) -> Transaction:
        """Write the key that exists for its revision only."""
        return self._operate(Put(self._keys.barrier, b""))

    # --- for the writer ---

    def build(self, fence: Compare | None = None) -> Txn:
        """The bare transaction; with `fence`, only while the leader's key is what it was."""
        compares = tuple(self._compares.values())
        return Txn(compares if fence is None else (fence, *compares), tuple(self._operations.values()))

    def failure(self, result: TxnResult, fence: Compare | None = None) -> ConflictError:
        """Why the transaction failed, from what was found instead."""
        if fence is not None and _differs(fence, result.found):
            return FencedError("this manager is no longer the leader")
        failed = tuple(key for key, compare in self._compares.items() if _differs(compare, result.found))
        for key in failed:
            if key in self._claims and (taken := result.found.get(key)):
                return ClaimTakenError(key, taken.value.decode())
        return StaleError(failed, self._explain(failed, result.found))

    def _explain(self, failed: tuple[str, ...], found: Mapping[str, KeyValue]) -> str:
        if not failed:
            return "the objects changed while the transaction ran; try again"
        key = failed[0]
        parsed = self._keys.parse(key)
        what = f"{parsed.kind.value} {parsed.id}" if isinstance(parsed, ObjectKey) else key
        if key not in found:
            return f"{what} does not exist any more"
        if not self._compares[key].mod_revision:
            return f"{what} exists already"
        seen, now = self._compares[key].mod_revision, found[key].mod_revision
        return f"{what} changed since it was read: version {seen} was given, it is at {now}"

    def _compare(self, key: str, version: int) -> Transaction:
        if self._compares.setdefault(key, (wanted := Compare(key, version))) != wanted:
            raise ValueError(f"a transaction cannot want {key} at two versions")
        return self

    def _operate(self, operation: Operation) -> Transaction:
        if operation.key in self._operations:
            raise ValueError(f"a transaction cannot write {operation.key} twice")
        self._operations[operation.key] = operation
        return self


def _version(key: str, obj: Object) -> int:
    if not obj.meta.version:
        raise ValueError(f"{key} was not read from the store, so it has no version to compare")
    return obj.meta.version


def _differs(compare: Compare, found: Mapping[str, KeyValue]) -> bool:
    present = found.get(compare.key)
    return compare.mod_revision != (present.mod_revision if present else 0)
