"""The two models are one: every dataclass against its message, and back and forth."""

from __future__ import annotations

import typing
from dataclasses import fields, is_dataclass
from enum import IntEnum
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import InvalidArgumentError
from minimanager import codec
from minimanager.domain import objects
from minimanager.store.keys import CLASSES, Kind, kind_of
from miniproto.v1 import control_pb2, objects_pb2

DATACLASSES = sorted(
    (cls for cls in vars(objects).values() if isinstance(cls, type) and is_dataclass(cls)),
    key=lambda cls: cls.__name__,
)
ENUMS = [
    cls
    for cls in vars(objects).values()
    if isinstance(cls, type) and issubclass(cls, IntEnum) and cls is not IntEnum
]
SIGNED = {Field.TYPE_INT64, Field.TYPE_INT32}
INTEGERS = {*SIGNED, Field.TYPE_UINT64, Field.TYPE_UINT32}
RANGES = {
    Field.TYPE_INT64: (-(2**63), 2**63 - 1),
    Field.TYPE_INT32: (-(2**31), 2**31 - 1),
    Field.TYPE_UINT64: (0, 2**64 - 1),
    Field.TYPE_UINT32: (0, 2**32 - 1),
}


@pytest.mark.parametrize("cls", DATACLASSES, ids=lambda cls: cls.__name__)
def test_every_field_of_a_dataclass_is_in_its_message_with_the_same_type(cls: Any) -> None:
    descriptor = objects_pb2.DESCRIPTOR.message_types_by_name[cls.__name__]
    hints = typing.get_type_hints(cls)
    assert [field.name for field in fields(cls)] == [field.name for field in descriptor.fields]
    for field in descriptor.fields:
        assert matches(hints[field.name], field), f"{cls.__name__}.{field.name}"


def matches(hint: Any, field: Field) -> bool:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return field.is_repeated and matches_one(arguments[0], field)
    if arguments:
        entry = field.message_type
        return bool(entry and entry.GetOptions().map_entry) and arguments == (str, str)
    return not field.is_repeated and matches_one(hint, field)


def matches_one(hint: Any, field: Field) -> bool:
    if is_dataclass(hint):
        return field.message_type is not None and field.message_type.name == getattr(hint, "__name__", "")
    if issubclass(hint, IntEnum):
        return field.enum_type is not None and field.enum_type.name == hint.__name__
    scalars: dict[type, set[int]] = {
        bool: {Field.TYPE_BOOL},
        int: INTEGERS,
        str: {Field.TYPE_STRING},
        bytes: {Field.TYPE_BYTES},
    }
    return field.type in scalars[hint]


def test_every_message_has_a_dataclass() -> None:
    assert {cls.__name__ for cls in DATACLASSES} == set(objects_pb2.DESCRIPTOR.message_types_by_name)


@pytest.mark.parametrize("cls", ENUMS, ids=lambda cls: cls.__name__)
def test_every_enum_has_the_same_names_and_numbers(cls: type[IntEnum]) -> None:
    descriptor = objects_pb2.DESCRIPTOR.enum_types_by_name[cls.__name__]
    stem = "".join("_" + char if char.isupper() else char for char in cls.__name__).strip("_").upper()
    assert {value.name: value.number for value in descriptor.values} == {
        f"{stem}_{member.name}": member.value for member in cls
    }


# --- any value survives ---


def anything(cls: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    descriptor = objects_pb2.DESCRIPTOR.message_types_by_name[cls.__name__]
    return st.builds(
        cls,
        **{
            field.name: of_type(hints[field.name], descriptor.fields_by_name[field.name])
            for field in fields(cls)
        },
    )


def of_type(hint: Any, field: Field) -> st.SearchStrategy[Any]:
    if typing.get_origin(hint) is tuple:
        return st.lists(of_type(typing.get_args(hint)[0], field), max_size=3).map(tuple)
    if typing.get_args(hint):
        return st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
    if is_dataclass(hint):
        return anything(hint)
    if issubclass(hint, IntEnum):
        return st.sampled_from(hint)
    if hint is int:
        low, high = RANGES[field.type]
        return st.integers(low, high)
    return {bool: st.booleans(), str: st.text(max_size=10), bytes: st.binary(max_size=10)}[hint]


OBJECTS = st.one_of([anything(cls) for cls in CLASSES.values()])


@given(OBJECTS, st.integers(0, 2**63 - 1))
def test_an_object_is_read_as_it_was_written_at_its_revision(obj: Any, version: int) -> None:
    assert codec.decode(kind_of(obj), codec.encode(obj), version) == codec.with_version(obj, version)


@given(OBJECTS)
def test_a_message_gives_back_the_object(obj: Any) -> None:
    assert codec.from_proto(codec.to_proto(obj)) == obj


@given(anything(objects.ServiceSpec))
def test_so_does_a_part_of_an_object(spec: objects.ServiceSpec) -> None:
    assert codec.from_proto(codec.to_proto(spec)) == spec


def test_the_version_is_not_in_the_stored_bytes() -> None:
    old, new = (objects.Node(id="n", meta=objects.Meta(version=version)) for version in (1, 2))
    assert codec.encode(old) == codec.encode(new)


def test_a_message_that_is_left_out_has_its_default() -> None:
    sent = objects_pb2.ServiceSpec(name="web", task=objects_pb2.TaskSpec())
    assert codec.from_proto(sent).task.restart == objects.RestartPolicy()


def test_the_tasks_of_a_service_share_one_spec() -> None:
    spec = objects.TaskSpec(container=objects.ContainerSpec(image="web:1"))
    one, two = (codec.decode(Kind.TASK, codec.encode(objects.Task(id=name, spec=spec)), 1) for name in "ab")
    assert isinstance(one, objects.Task)
    assert isinstance(two, objects.Task)
    assert one.spec is two.spec


# --- what is wrong ---


def test_an_unknown_number_of_an_enum_is_refused_by_the_name_of_the_field() -> None:
    sent = objects_pb2.NodeSpec()
    sent.MergeFromString(b"\x20\x09")  # field 4, availability: 9
    with pytest.raises(
        InvalidArgumentError, match=r"NodeSpec\.availability: must be one of 0 \(ACTIVE\).*got 9"
    ):
        codec.from_proto(sent)


def test_damaged_bytes_are_an_error_that_names_the_kind() -> None:
    with pytest.raises(codec.CorruptError, match="service: the stored bytes cannot be read"):
        codec.decode(Kind.SERVICE, b"\xff\xff\xff", 1)


UNKNOWN = b"\xf8\x7f\x01"  # field 2047, a number


@pytest.mark.parametrize(
    ("place", "where"),
    [
        (lambda request: request, "CreateServiceRequest"),
        (lambda request: request.spec.task.restart, r"CreateServiceRequest\.spec\.task\.restart"),
        (lambda request: request.spec.ports.add(), r"CreateServiceRequest\.spec\.ports\[0\]"),
    ],
)
def test_unknown_fields_are_refused_wherever_they_are(place: Any, where: str) -> None:
    request = control_pb2.CreateServiceRequest(spec=objects_pb2.ServiceSpec(name="web", labels={"a": "b"}))
    codec.refuse_unknown_fields(request)
    place(request).MergeFromString(UNKNOWN)
    with pytest.raises(InvalidArgumentError, match=f"^{where}: unknown field number 2047$"):
        codec.refuse_unknown_fields(request)
