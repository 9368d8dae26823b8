# SPDX-License-Identifier: Apache-2.0
"""The wire format against protobuf itself."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffnext.codewithgpu_compat import RECORD, message_classes
from diffnext.data.records import wire
from diffnext.data.records.wire_write import encode

FeatureMap = message_classes(*RECORD)["FeatureMap"]
TYPES = {
    "b": "BYTES",
    "s": "STRING",
    "f": "FLOAT32",
    "i": "INT64",
    "list": ["INT64"],
    "nested": [{"x": "STRING", "deep": [["FLOAT32"]]}],
    "map": {"data": "BYTES", "shape": ["INT64"]},
}
int64 = st.integers(-(2**63), 2**63 - 1)
float32 = st.floats(width=32, allow_nan=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
records = st.fixed_dictionaries(
    {
        "b": st.binary(max_size=300),
        "s": text,
        "f": float32,
        "i": int64,
        "list": st.lists(int64, max_size=5),
        "nested": st.lists(
            st.fixed_dictionaries({"x": text, "deep": st.lists(st.lists(float32, max_size=2))}),
            max_size=3,
        ),
        "map": st.fixed_dictionaries(
            {"data": st.binary(max_size=9), "shape": st.lists(int64, max_size=3)}
        ),
    }
)


def by_protobuf(value, kind, feature):
    """Fill a protobuf message as codewithgpu does."""
    if isinstance(kind, list):
        feature.feature_list.SetInParent()
        for item in value:
            by_protobuf(item, kind[0], feature.feature_list.container.add())
    elif isinstance(kind, dict):
        feature.feature_map.SetInParent()
        for name, inner in kind.items():
            by_protobuf(value[name], inner, feature.feature_map.container[name])
    elif kind == "INT64":
        feature.i = value
    elif kind == "FLOAT32":
        feature.f = value
    else:
        feature.s = value.encode() if kind == "STRING" else value


def message_of(record):
    message = FeatureMap()
    for name, kind in TYPES.items():
        by_protobuf(record[name], kind, message.container[name])
    return message


@given(records)
def test_reads_what_protobuf_writes(record):
    assert wire.decode(message_of(record).SerializeToString(), TYPES) == record


@given(records)
def test_protobuf_reads_what_it_writes(record):
    assert FeatureMap.FromString(b"".join(encode(record, TYPES))) == message_of(record)


@given(records, st.data())
def test_damaged_bytes_give_an_error_or_a_record_never_a_hang(record, data):
    raw = bytearray(b"".join(encode(record, TYPES)))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    for damaged in (raw, raw[:place]):
        try:
            assert set(wire.decode(damaged, TYPES)) == set(TYPES)
        except ValueError:
            pass


def test_absent_fields_get_zeros():
    empty = {"b": b"", "s": "", "f": 0.0, "i": 0, "list": [], "nested": []}
    assert wire.decode(b"", TYPES) == {**empty, "map": {"data": b"", "shape": []}}
    entry = FeatureMap()
    entry.container["i"].SetInParent()
    assert wire.decode(entry.SerializeToString(), {"i": "INT64"}) == {"i": 0}


def test_large_payloads_are_views_not_copies():
    data = b"".join(encode({"b": bytes(5000)}, {"b": "BYTES"}))
    view = wire.decode(data, {"b": "BYTES"})["b"]
    assert isinstance(view, memoryview) and view.obj is data
    payload = bytearray(5000)
    pieces = encode({"b": payload}, {"b": "BYTES"})
    payload[0] = 1
    assert b"".join(pieces)[-5000] == 1


def test_types_take_the_names_of_codewithgpu():
    fields = {"a": "float64", "b": ["int"], "c": {"d": "bytes"}, "e": "String", "f": ("int32",)}
    stored = {"a": "FLOAT32", "b": ["INT64"], "c": {"d": "BYTES"}, "e": "STRING", "f": ["INT64"]}
    assert wire.feature_types(fields) == stored
    with pytest.raises(ValueError, match=r"'x' has type 'complex'.*int64"):
        wire.feature_types({"x": "complex"})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"i": 1}, r"missing \['b'\], unknown \[\]"),
        ({"i": 1, "b": b"", "z": 0}, r"unknown \['z'\]"),
        ({"i": 2**63, "b": b""}, "'i' takes INT64, got 9223372036854775808.*64 bits"),
        ({"i": 1.5, "b": b""}, r"'i' takes INT64, got 1\.5"),
        ({"i": 1, "b": "text"}, "'b' takes BYTES, got 'text'"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_by_name(record, message):
    with pytest.raises(ValueError, match=message):
        encode(record, {"i": "INT64", "b": "BYTES"})


def test_another_type_on_the_wire_is_an_error():
    data = b"".join(encode({"n": 3}, {"n": "INT64"}))
    with pytest.raises(ValueError, match="'n' holds an integer, its type is STRING"):
        wire.decode(data, {"n": "STRING"})


def test_types_are_inferred_when_metadata_is_lost():
    record = {
        "moments": b"abcd",
        "caption": "a cat",
        "shape": [8, 1, 1],
        "flow": 5.0,
        "label": 3,
        "text": {"data": b"ab", "shape": [1, 1]},
    }
    types = {
        "moments": "BYTES",
        "caption": "STRING",
        "shape": ["INT64"],
        "flow": "FLOAT32",
        "label": "INT64",
        "text": {"data": "BYTES", "shape": ["INT64"]},
    }
    assert wire.infer_types(b"".join(encode(record, types))) == types


def test_floats_are_rounded_to_four_bytes():
    data = b"".join(encode({"f": 0.1}, {"f": "FLOAT32"}))
    assert (
        wire.decode(data, {"f": "FLOAT32"})["f"] == struct.unpack("<f", struct.pack("<f", 0.1))[0]
    )


texts = st.dictionaries(st.sampled_from("abc"), st.text(max_size=40).map(lambda t: t * 9))


@given(texts, st.permutations("abc"), st.integers(0, 3))
def test_texts_are_decoded_as_any_field(values, order, cut):
    """By the shortcut as far as it goes, then field by field; whole, in any order, or cut off."""
    types = dict.fromkeys("abc", "STRING")
    written = {name: values[name] for name in order if name in values}
    data = b"".join(encode(written, dict.fromkeys(written, "STRING")))
    entries, record = {name: {} for name in "abc"}, {}
    end = wire.decode_texts(data, entries, record)
    assert {**record, **wire.decode_present(data, end, len(data), types)} == written
    torn = data[: len(data) - cut]
    record = {}
    end = wire.decode_texts(torn, entries, record)
    assert end <= len(torn) and all(written[name] == text for name, text in record.items())


def test_texts_of_any_length():
    entries = {"other": {}, "caption": {}}
    for size in [*range(300), 2**14 - 20, 2**14 - 1, 2**14, 2**21]:
        text = "x" * size
        data = b"".join(encode({"caption": text}, {"caption": "STRING"}))
        record = {}
        end = wire.decode_texts(data, entries, record)
        assert {**record, **wire.decode_present(data, end, len(data), {"caption": "STRING"})} == {
            "caption": text
        }
        assert end == (len(data) if size < 2**14 - 20 else end)


@pytest.mark.parametrize("data", [b"\xff", b"\xff\x01\x01\xff", b"\n", b"\n\x80", b""])
def test_what_begins_no_entry_is_no_text(data):
    record = {}
    assert wire.decode_texts(data, {"caption": {}}, record) == 0
    assert record == {}
