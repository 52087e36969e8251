"""Brings every sealed value in the store under the present cluster key, whatever object it is in.

Sealed values are found by their form in the stored messages, so a new kind of object needs nothing here. The contents
of secrets and configs and the ledger's key are sealed values themselves, apart from the objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from miniproto.v1 import objects_pb2

from minimanager.store.api import Compare, KeyValue, Put, Store
from minimanager.store.envelope import Envelope, sealed_key_id
from minimanager.store.keys import CLASSES, Keys, Kind


def has_bytes(descriptor: Descriptor, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a message of this kind can hold a sealed value."""
    if descriptor.full_name in seen:
        return False
    seen |= {descriptor.full_name}
    return any(
        field.type == FieldDescriptor.TYPE_BYTES
        or (field.message_type is not None and has_bytes(field.message_type, seen))
        for field in descriptor.fields
    )


def _message(kind: Kind) -> Any:
    return getattr(objects_pb2, CLASSES[kind].__name__)


KINDS: Final = tuple(kind for kind in Kind if has_bytes(_message(kind).DESCRIPTOR))
"""Objects with sealed values, perhaps."""


async def rewrap_all(store: Store, keys: Keys, envelope: Envelope) -> int:
    """One pass over the store. How many objects had a value of another key: 0 says that none is left.

    Raises SealError for a value that no known key opens.
    """
    found = 0
    for kind in KINDS:
        listed = await store.list(f"{keys.prefix}{kind.value}/")
        for item in listed.items:
            found += await _rewrap(store, item, kind, envelope)
    for prefix in (keys.sealed, keys.ledger_key):
        for item in (await store.list(prefix)).items:
            found += await _rewrap_value(store, item, envelope)
    return found


async def _rewrap(store: Store, item: KeyValue, kind: Kind, envelope: Envelope) -> bool:
    """Whether the object had one. One that changed meanwhile is left to the next pass."""
    message = _message(kind).FromString(item.value)
    if not rewrap_message(message, envelope):
        return False
    data = message.SerializeToString(deterministic=True)
    await store.txn((Compare(item.key, item.mod_revision),), (Put(item.key, data),))
    return True


async def _rewrap_value(store: Store, item: KeyValue, envelope: Envelope) -> bool:
    """The same for a key whose whole value is sealed."""
    if sealed_key_id(item.value) in (None, envelope.key_id):
        return False
    await store.txn((Compare(item.key, item.mod_revision),), (Put(item.key, envelope.rewrap(item.value)),))
    return True


def rewrap_message(message: Message, envelope: Envelope) -> bool:
    """Change the sealed values in a message. Whether there was one of another key."""
    changed = False
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_BYTES:
            changed |= _rewrap_field(message, field, value, envelope)
        elif field.message_type is not None:
            for inner in _inner(field, value):
                changed |= rewrap_message(inner, envelope)
    return changed


def _rewrap_field(message: Message, field: FieldDescriptor, value: Any, envelope: Envelope) -> bool:
    if not field.is_repeated:
        if sealed_key_id(value) in (None, envelope.key_id):
            return False
        setattr(message, field.name, envelope.rewrap(value))
        return True
    changed = False
    for index, item in enumerate(value):
        if sealed_key_id(item) not in (None, envelope.key_id):
            value[index] = envelope.rewrap(item)
            changed = True
    return changed


def _inner(field: FieldDescriptor, value: Any) -> Iterator[Message]:
    if not field.is_repeated:
        yield value
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        yield from (item for item in value.values() if isinstance(item, Message))
    else:
        yield from value
