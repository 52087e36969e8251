"""The client's own wire formats against the libraries that everybody uses."""

from __future__ import annotations

from typing import Any

import hpack
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st
from minictl.client import codec, generate, headers

_INTS = {
    FieldDescriptor.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_UINT32: (0, (1 << 32) - 1),
}
_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
_KINDS = sorted(
    {
        message.name: message for file in generate.files() for message in file.message_types_by_name.values()
    }.items()
)


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type in _INTS:
        low, high = _INTS[field.type]
        return st.integers(low, high)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    return st.binary(max_size=8) if field.type == FieldDescriptor.TYPE_BYTES else _TEXT


@st.composite
def values(draw: st.DrawFn, kind: Descriptor, depth: int = 3) -> dict[str, Any]:
    """Field values of a message, as constructor arguments of protobuf's own class."""
    result: dict[str, Any] = {}
    for field in kind.fields:
        if not draw(st.booleans()):
            continue
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            key, value = (_scalar(message.fields_by_name[part]) for part in ("key", "value"))
            result[field.name] = draw(st.dictionaries(key, value, max_size=2))
        elif message is not None:
            if depth == 0:
                continue
            one = values(message, depth - 1)
            result[field.name] = draw(st.lists(one, max_size=2) if field.is_repeated else one)
        else:
            one = _scalar(field)
            result[field.name] = draw(st.lists(one, max_size=3) if field.is_repeated else one)
    return result


def _ours(name: str, data: bytes) -> Any:
    return codec.message_class(name).FromString(data)


@pytest.mark.parametrize(("name", "kind"), _KINDS, ids=[name for name, _ in _KINDS])
@settings(max_examples=25)
@given(data=st.data())
def test_codec_agrees_with_protobuf(name: str, kind: Descriptor, data: st.DataObject) -> None:
    theirs: Message = GetMessageClass(kind)(**data.draw(values(kind)))
    ours = _ours(name, theirs.SerializeToString())
    _same(ours, theirs)
    back = GetMessageClass(kind).FromString(ours.SerializeToString())
    assert back == theirs


def _same(ours: Any, theirs: Message) -> None:
    """Every field, set or not, reads alike."""
    for field in theirs.DESCRIPTOR.fields:
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            assert mine == dict(other)
        elif field.message_type is None:
            assert list(mine) == list(other) if field.is_repeated else mine == other
        elif field.is_repeated:
            assert len(mine) == len(other)
            for one, two in zip(mine, other, strict=True):
                _same(one, two)
        else:
            _same(mine, other)
            assert ours.HasField(field.name) == theirs.HasField(field.name)


_NAME = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=20)
_HEADERS = st.lists(st.tuples(_NAME, st.text(st.characters(codec="utf-8"), max_size=40)), max_size=8)


@given(st.lists(_HEADERS, max_size=5), st.booleans())
def test_decoder_reads_what_hpack_writes(blocks: list[list[tuple[str, str]]], huffman: bool) -> None:
    """Block after block: the dynamic tables stay equal."""
    encoder, decoder = hpack.Encoder(), headers.Decoder()
    for block in blocks:
        assert decoder.decode(encoder.encode(block, huffman=huffman)) == block


@given(st.lists(_HEADERS, min_size=1, max_size=5), st.sampled_from([0, 64, 100, 4096]))
def test_decoder_follows_a_table_that_changes_size(blocks: list[list[tuple[str, str]]], size: int) -> None:
    encoder, decoder = hpack.Encoder(), headers.Decoder()
    for index, block in enumerate(blocks):
        if index == 1:
            encoder.header_table_size = size
        assert decoder.decode(encoder.encode(block)) == block


@given(_HEADERS)
def test_hpack_reads_what_we_write(block: list[tuple[str, str]]) -> None:
    decoded: list[tuple[Any, Any]] = list(hpack.Decoder().decode(headers.encode(block)))
    assert decoded == block


@given(st.binary(max_size=64))
def test_any_bytes_are_headers_or_an_error(data: bytes) -> None:
    try:
        headers.Decoder().decode(data)
    except headers.HeaderError:
        return


@given(st.sampled_from([name for name, _ in _KINDS]), st.binary(max_size=64))
def test_any_bytes_are_a_message_or_an_error(name: str, data: bytes) -> None:
    try:
        _ours(name, data)
    except codec.Malformed:
        return
