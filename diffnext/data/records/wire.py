# SPDX-License-Identifier: Apache-2.0
"""The bytes of one record: a protobuf map of named, typed values, without the protobuf package.

    Feature     { oneof kind { bytes s = 1; float f = 2; int64 i = 3;
                               FeatureList feature_list = 4; FeatureMap feature_map = 5; } }
    FeatureList { repeated Feature container = 1; }
    FeatureMap  { map<string, Feature> container = 1; }        a record is one FeatureMap

A type is "BYTES", "STRING", "FLOAT32" or "INT64", a list of one type, or a dict of types.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from typing import Any

from diffnext.data.records.base import Buffer

FeatureType = str | list | dict

# Wire tags are (field number << 3) | wire type; 0 varint, 2 length and payload, 5 four bytes.
ENTRY, KEY, VALUE = 0x0A, 0x0A, 0x12
BYTES, FLOAT, INT, LIST, MAP = 0x0A, 0x15, 0x18, 0x22, 0x2A
TAG_OF = {"BYTES": BYTES, "STRING": BYTES, "FLOAT32": FLOAT, "INT64": INT}
DEFAULTS = {"BYTES": b"", "STRING": "", "FLOAT32": 0.0, "INT64": 0}
NAMES = {BYTES: "bytes", FLOAT: "a float", INT: "an integer", LIST: "a list", MAP: "a map"}
ALIASES = {"FLOAT": "FLOAT32", "FLOAT64": "FLOAT32", "INT": "INT64", "INT32": "INT64"}


def feature_types(fields: Mapping[str, Any]) -> dict[str, FeatureType]:
    """Return the stored types of fields: "float64" is kept as FLOAT32, "int32" as INT64.

    Raises:
        ValueError: a type that the format does not have.
    """
    return {name: _feature_type(kind, name) for name, kind in fields.items()}


def _feature_type(kind: Any, name: str) -> FeatureType:
    if isinstance(kind, Mapping):
        return {key: _feature_type(value, f"{name}.{key}") for key, value in kind.items()}
    if isinstance(kind, list | tuple) and len(kind) == 1:
        return [_feature_type(kind[0], f"{name}[]")]
    stored = ALIASES.get(str(kind).upper(), str(kind).upper())
    if not isinstance(kind, str) or stored not in TAG_OF:
        raise ValueError(
            f"field {name!r} has type {kind!r}; there are bytes, string, float32 (float, float64), "
            "int64 (int, int32), a list [type] and a dict of types"
        )
    return stored


def decode(data: Buffer, types: Mapping[str, FeatureType]) -> dict[str, Any]:
    """Decode the fields in `types`; others are skipped over, absent ones get the type's zero.

    BYTES come as memoryviews of `data`, without a copy.

    Raises:
        ValueError: the bytes are not such a map, or a value has another type.
    """
    return complete(decode_present(data, 0, len(data), types), types)


def decode_present(
    data: Buffer, pos: int, end: int, types: Mapping[str, FeatureType]
) -> dict[str, Any]:
    """As `decode`, for a part of a record: whole entries, without the fields that are absent."""
    record = {}
    while pos < end:
        name, start, stop, pos = entry(data, pos, end)
        if name in types:
            record[name] = _decode_feature(data, start, stop, types[name], name)
    return record


Openings = dict[str, tuple[str | None, int, int]]
"""How an entry of one STRING field begins, by its second and third byte, which tell the size of its
body: what stands before the text, its length, and the size of the entry; None for the first where no
text fits. Bytes are characters of latin-1, of which strings are faster to take apart."""


def decode_texts(
    data: bytes | bytearray, known: Mapping[str, Openings], record: dict[str, Any]
) -> int:
    """Add the STRING entries that `data` begins with to `record`; return where they end.

    They are looked for in the order of `known`, where any may be absent. All that stands before a
    text follows from the field's name and the size of the entry, so one comparison checks it.

    Args:
        known: for each field, the openings that were met; new ones are added.

    Raises:
        ValueError: text that is not utf-8.
    """
    chars, pos, end = data.decode("latin-1"), 0, len(data)
    for name, openings in known.items():
        two = chars[pos + 1 : pos + 3]
        if two not in openings:
            openings[two] = _opening(name, two)
        opening, start, total = openings[two]
        stop, start = pos + total, pos + start
        if stop <= end and chars[pos:start] == opening:
            text = chars[start:stop]
            record[name] = text if text.isascii() else data[start:stop].decode()
            pos = stop
    return pos


def _opening(name: str, two: str) -> tuple[str | None, int, int]:
    size, more = two.encode("latin-1").ljust(2, b"\0")
    if size > 0x7F:  # two digits; a text that needs three is decoded as any other field
        size += (more - 1) << 7
    total = 1 + len(encode_varint(size)) + size
    longest = size - len(name.encode()) - 6  # tags and lengths of one byte each
    for length in range(longest, max(-1, longest - 16), -1):
        opening = _payload_opening(name, length)
        if len(opening) + length == total:
            return opening.decode("latin-1"), len(opening), total
    return None, 0, 0


def complete(record: Mapping[str, Any], types: Mapping[str, FeatureType]) -> dict[str, Any]:
    """The fields in the order of `types`, absent ones with the type's zero."""
    return {
        name: record[name] if name in record else _default(kind) for name, kind in types.items()
    }


def entry(data: Buffer, pos: int, end: int) -> tuple[str, int, int, int]:
    """Name and extent of the Feature of the map entry at `pos`, and where the entry ends."""
    tag, pos, stop = _field(data, pos, end)
    if tag != ENTRY:
        raise ValueError(f"field {tag:#04x} before byte {pos}, where an entry of a map is 0x0a")
    name, first, last = "", stop, stop
    while pos < stop:
        tag, start, pos = _field(data, pos, stop)
        if tag == KEY:
            name = str(data[start:pos], "utf-8")
        elif tag == VALUE:
            first, last = start, pos
    return name, first, last, stop


def _field(data: Buffer, pos: int, end: int) -> tuple[int, int, int]:
    """Tag and payload extent of the field at `pos` of a message that ends at `end`."""
    if pos + 2 > end:
        raise ValueError(f"the record breaks off at byte {pos}, where a field should be")
    tag, size, start = data[pos], data[pos + 1], pos + 2
    if tag & 7 == 2 and tag < 0x80:
        if size > 0x7F:
            size, start = varint(data, pos + 1, end)
    else:
        tag, start = varint(data, pos, end)
        size, start = _payload(data, start, end, tag & 7)
    if start + size > end:
        raise ValueError(f"{size} bytes are announced at byte {start}, {end - start} are left")
    return tag, start, start + size


def _payload(data: Buffer, pos: int, end: int, kind: int) -> tuple[int, int]:
    """Size and start of a payload of any wire type."""
    if kind == 0:
        return varint(data, pos, end)[1] - pos, pos
    if kind == 2:
        return varint(data, pos, end)
    if kind in (1, 5):
        return 8 if kind == 1 else 4, pos
    raise ValueError(f"wire type {kind} before byte {pos}, which proto3 does not have")


def _decode_feature(data: Buffer, pos: int, end: int, kind: FeatureType, name: str) -> Any:
    value = None
    while pos < end:
        tag, start, pos = _field(data, pos, end)
        wanted = LIST if isinstance(kind, list) else MAP if isinstance(kind, dict) else TAG_OF[kind]
        if tag != wanted:
            raise ValueError(f"field {name!r} holds {NAMES.get(tag, hex(tag))}, its type is {kind}")
        value = _decode_value(data, start, pos, kind, name)
    return _default(kind) if value is None else value


def _decode_value(data: Buffer, start: int, end: int, kind: FeatureType, name: str) -> Any:
    if kind == "STRING":
        return str(data[start:end], "utf-8")
    if kind == "BYTES":
        return memoryview(data)[start:end]
    if kind == "FLOAT32":
        return struct.unpack_from("<f", data, start)[0]
    if kind == "INT64":
        value = varint(data, start, end)[0]
        return value - (1 << 64) if value >> 63 else value
    if isinstance(kind, dict):
        return complete(decode_present(data, start, end, kind), kind)
    if kind == ["INT64"]:
        return list(_integers(bytes(data[start:end]), name))
    return _decode_list(data, start, end, kind, name)


@functools.lru_cache(maxsize=256)
def _integers(data: bytes, name: str) -> list[int]:
    """Decode a list of integers; those of `shape` are the same in most records."""
    return _decode_list(data, 0, len(data), ["INT64"], name)


def _decode_list(data: Buffer, pos: int, end: int, kind: list, name: str) -> list:
    values = []
    while pos < end:
        tag, start, pos = _field(data, pos, end)
        if tag == ENTRY:
            values.append(_decode_feature(data, start, pos, kind[0], name))
    return values


def _default(kind: FeatureType) -> Any:
    if isinstance(kind, dict):
        return {name: _default(inner) for name, inner in kind.items()}
    return [] if isinstance(kind, list) else DEFAULTS[kind]


def varint(data: Buffer, pos: int, end: int) -> tuple[int, int]:
    """Read a base-128 integer; return it and the position after it."""
    value = shift = 0
    while pos < end:
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, pos
        shift += 7
        if shift > 63:
            raise ValueError(f"the integer that ends at byte {pos} has more than 64 bits")
    raise ValueError(f"the record breaks off at byte {end}, inside an integer")


@functools.lru_cache(maxsize=4096)  # most are lengths, which come again
def encode_varint(value: int) -> bytes:
    """Write a number in [0, 2**64) in base 128, lowest digits first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def payload_before(head: Buffer, field: str, size: int) -> int | None:
    """Where the entry of `field` starts, if `head` ends just before that field's `size` bytes.

    None when it does not: the record is laid out in another way.
    """
    opening = _payload_opening(field, size)
    start = len(head) - len(opening)
    return start if start >= 0 and head[start:] == opening else None


@functools.lru_cache(maxsize=512)
def _payload_opening(field: str, size: int) -> bytes:
    """All bytes of a map entry that come before its BYTES payload."""
    value = bytes([BYTES]) + encode_varint(size)
    name = field.encode()
    entry = bytes([KEY]) + encode_varint(len(name)) + name
    entry += bytes([VALUE]) + encode_varint(len(value) + size) + value
    return bytes([ENTRY]) + encode_varint(len(entry) + size) + entry


def infer_types(data: Buffer) -> dict[str, FeatureType]:
    """Guess the types of a record whose METADATA is lost.

    Text and bytes look alike on the wire: `moments`, `codes` and `data` are bytes, anything else is
    text if it is valid utf-8.
    """
    return _infer_map(data, 0, len(data))


def _infer_map(data: Buffer, pos: int, end: int) -> dict[str, FeatureType]:
    types = {}
    while pos < end:
        name, start, stop, pos = entry(data, pos, end)
        types[name] = _infer(data, start, stop, name)
    return types


def _infer(data: Buffer, pos: int, end: int, name: str) -> FeatureType:
    if pos == end:
        return "STRING"
    tag, start, stop = _field(data, pos, end)
    if tag == LIST:
        return [_infer(data, *_field(data, start, stop)[1:], name)] if start < stop else ["INT64"]
    if tag == MAP:
        return _infer_map(data, start, stop)
    if tag in (FLOAT, INT):
        return "FLOAT32" if tag == FLOAT else "INT64"
    return _text_or_bytes(bytes(data[start:stop]), name)


def _text_or_bytes(value: bytes, name: str) -> str:
    if name in ("moments", "codes", "data"):
        return "BYTES"
    try:
        value.decode()
    except UnicodeDecodeError:
        return "BYTES"
    return "STRING"
