# SPDX-License-Identifier: Apache-2.0
"""Writes the bytes of one record; `wire` says what they are."""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Mapping
from typing import Any

from diffnext.data.records.base import Buffer
from diffnext.data.records.wire import (
    BYTES,
    ENTRY,
    FLOAT,
    INT,
    KEY,
    LIST,
    MAP,
    VALUE,
    FeatureType,
    encode_varint,
)

SMALL = 4096  # bytes; pieces below this size are joined before they are written


def encode(record: Mapping[str, Any], types: Mapping[str, FeatureType]) -> list[Buffer]:
    """Encode a record as buffers to be written one after another; large payloads are not copied.

    Raises:
        ValueError: a field is missing or unknown, or a value does not fit its type.
    """
    if record.keys() != types.keys():
        missing, unknown = (
            sorted(types.keys() - record.keys()),
            sorted(record.keys() - types.keys()),
        )
        raise ValueError(
            f"a record takes the fields {list(types)}; missing {missing}, unknown {unknown}"
        )
    pieces: list[Buffer] = []
    for name, kind in types.items():
        pieces += _encode_entry(name, record[name], kind)
    return _join_small(pieces)


def _encode_entry(name: str, value: Any, kind: FeatureType) -> list[Buffer]:
    try:
        feature = _encode_feature(value, kind)
    except (TypeError, ValueError, OverflowError, AttributeError, struct.error) as error:
        text = repr(value)
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise ValueError(f"field {name!r} takes {kind}, got {shown}: {error}") from error
    size = _length(feature)
    header = _opening(name) + encode_varint(size)
    return [_tag(ENTRY) + encode_varint(len(header) + size) + header, *feature]


@functools.cache
def _tag(tag: int) -> bytes:
    return bytes([tag])


@functools.lru_cache(maxsize=512)
def _opening(name: str) -> bytes:
    """What an entry of a field begins with, up to the size of its value."""
    key = name.encode()
    return bytes([KEY]) + encode_varint(len(key)) + key + bytes([VALUE])


def _encode_feature(value: Any, kind: FeatureType) -> list[Buffer]:
    if isinstance(kind, list):
        items = [_sized(ENTRY, _encode_feature(item, kind[0])) for item in value]
        return _sized(LIST, [piece for item in items for piece in item])
    if isinstance(kind, dict):
        return _sized(MAP, encode(value, kind))
    if kind == "BYTES":
        view = memoryview(value)
        return _sized(BYTES, [view.cast("B") if view.nbytes else b""])
    if kind == "STRING":
        return _sized(BYTES, [value.encode()])
    if kind == "FLOAT32":
        return [_tag(FLOAT) + struct.pack("<f", value)]
    number = operator.index(value)
    if not -(1 << 63) <= number < 1 << 63:
        raise OverflowError("the number needs more than 64 bits")
    return [_tag(INT) + encode_varint(number & 0xFFFFFFFFFFFFFFFF)]


def _sized(tag: int, payload: list[Buffer]) -> list[Buffer]:
    return [_tag(tag) + encode_varint(_length(payload)), *payload]


def _length(pieces: list[Buffer]) -> int:
    return sum(map(len, pieces))


def _join_small(pieces: list[Buffer]) -> list[Buffer]:
    joined: list[Buffer] = []
    small: list[Buffer] = []
    for piece in pieces:
        if len(piece) < SMALL:
            small.append(piece)
            continue
        joined += [b"".join(small), piece]
        small = []
    return [piece for piece in [*joined, b"".join(small)] if len(piece)]
