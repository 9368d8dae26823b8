# SPDX-License-Identifier: Apache-2.0
"""Several folders as one source."""

from __future__ import annotations

import numpy as np
import pytest

from diffnext.data.datasets import (
    JoinedReader,
    identity_of,
    open_datasets,
    select_shapes,
    split_spec,
)
from diffnext.data.loader import Loader
from diffnext.data.records import DamagedRecord, Times, open_writer, write_identity
from diffnext.data.records.folder_reader import FolderReader


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("a", [("a", 1)]),
        ("a:2,b:1", [("a", 2), ("b", 1)]),
        (" a:0.5 , /d/b ", [("a", 0.5), ("/d/b", 1)]),
        ("C:\\cache", [("C:\\cache", 1)]),
        ("C:\\cache:2,D:/x:3", [("C:\\cache", 2), ("D:/x", 3)]),
        ("s3://host:9000/x:2", [("s3://host:9000/x", 2)]),
        ("http://host:8000", [("http://host:8000", 1)]),
        ("https://host:8000:2", [("https://host:8000", 2)]),
        ("s3://bucket:2", [("s3://bucket", 2)]),
        (["a,b:2", "c"], [("a,b", 2), ("c", 1)]),
        ({"a,b": 2, "s3://bucket/x": 0.5}, [("a,b", 2), ("s3://bucket/x", 0.5)]),
        ("", []),
    ],
)
def test_paths_and_weights(spec, wanted):
    assert split_spec(spec) == wanted


def test_a_folder_that_is_there_is_taken_by_its_name(tmp_path):
    odd = tmp_path / "a,b:2"
    odd.mkdir()
    assert split_spec(str(odd)) == [(str(odd), 1)]


@pytest.mark.parametrize("spec", ["a:0", "a:-1", "a:nan", "a:inf", {"a": 0}, {"a": "2"}])
def test_weights_are_above_zero(spec):
    with pytest.raises(ValueError, match="wanted a number above 0"):
        split_spec(spec)


def write(folder, rows):
    kinds = {"moments": "bytes", "shape": ["int64"], "caption": "string", "label": "int64"}
    with open_writer(folder, {name: kinds[name] for name in rows[0]}) as writer:
        for row in rows:
            writer.write(row)
    return str(folder)


def images(folder, count=6, offset=0, shape=(4, 2, 2)):
    return write(
        folder,
        [
            {"moments": np.full(shape, i + offset, "<f2"), "shape": shape, "caption": f"old {i}"}
            for i in range(count)
        ],
    )


def keys_and_fields(readers, weights):
    loader = Loader(readers, batch_size=3, num_threads=0, weights=weights)
    return [next(loader) for _ in range(8)]


def test_weighted_folders(tmp_path):
    a, b = images(tmp_path / "a"), images(tmp_path / "b", offset=100)
    batches = keys_and_fields(*open_datasets(f"{a}:3,{b}"))
    values = np.concatenate([batch.moments[:, 0, 0, 0, 0] for batch in batches])
    assert (values < 100).sum() == 18 and (values >= 100).sum() == 6


def test_joined_fields_replace_and_add(tmp_path):
    a = images(tmp_path / "a")
    b = write(tmp_path / "b", [{"caption": f"new {i}", "label": i * 10} for i in range(6)])
    readers, weights = open_datasets(a, b)
    assert set(readers[0].fields) == {"moments", "shape", "caption", "label"}
    for batch in keys_and_fields(readers, weights):
        index = batch.index.tolist()
        assert batch.prompts == [f"new {i}" for i in index]
        assert batch.labels.tolist() == [i * 10 for i in index]
        assert batch.moments[:, 0, 0, 0, 0].tolist() == index


def test_a_joined_caption_takes_the_place_of_all_captions(tmp_path):
    kinds = {"shape": ["int64"], "moments": "bytes", "caption": "string", "captions": ["string"]}
    row = {"moments": np.zeros((4, 2, 2), "<f2"), "shape": [4, 2, 2], "caption": "old"}
    with open_writer(tmp_path / "a", kinds) as writer:
        for _ in range(6):
            writer.write({**row, "captions": ["old", "older"]})
    b = write(tmp_path / "b", [{"caption": f"new {i}"} for i in range(6)])
    readers, weights = open_datasets(str(tmp_path / "a"), b)
    assert "captions" not in readers[0].fields
    prompts = [p for batch in keys_and_fields(readers, weights) for p in batch.prompts]
    assert set(prompts) == {f"new {i}" for i in range(6)}


def test_joined_moments_bring_their_shape(tmp_path):
    a = images(tmp_path / "a")
    b = images(tmp_path / "b", offset=50, shape=(4, 3, 5))
    readers, weights = open_datasets(a, b)
    assert readers[0][2]["shape"] == [4, 3, 5]
    for batch in keys_and_fields(readers, weights):
        assert batch.moments.shape == (3, 4, 1, 3, 5)
        assert batch.moments[:, 0, 0, 0, 0].tolist() == [i + 50 for i in batch.index.tolist()]


@pytest.mark.parametrize("damaged", ["a", "b"])
def test_joined_folders_are_read_at_once_and_verified_as_asked_for(tmp_path, monkeypatch, damaged):
    a = images(tmp_path / "a")
    b = write(tmp_path / "b", [{"caption": f"new {i}"} for i in range(6)])
    with open(tmp_path / damaged / "00000.check", "r+b") as stream:
        stream.write(b"another!")
    (tmp_path / damaged / "diffnext.index.bin").unlink()
    monkeypatch.setattr(FolderReader, "__getitem__", None)  # one record after the other
    [reader], _ = open_datasets(a, b)
    chosen = select_shapes(reader, ())
    for indices, values in (([4, 0, 2], [4, 0, 2]), ([1], [1])):
        outs = [memoryview(bytearray(32)) for _ in indices]
        times = Times()
        records = chosen.read_into(indices, "moments", outs, verify=False, times=times)
        assert [record["caption"] for record in records] == [f"new {i}" for i in values]
        assert [np.frombuffer(out, "<f2")[0] for out in outs] == values
        assert records == [
            {name: value for name, value in record.items() if name != "moments"}
            for record in chosen.read(indices, verify=False)
        ]
        assert times.read_s > 0 and times.decode_s > 0
    with pytest.raises(DamagedRecord, match=rf"{damaged}/00000\.data record 0 "):
        chosen.read_into([0], "moments", [memoryview(bytearray(32))])


def test_joined_folders_have_one_length(tmp_path):
    a, b = images(tmp_path / "a"), images(tmp_path / "b", count=5)
    with pytest.raises(ValueError, match=r"a has 6 records and .*b has 5"):
        open_datasets(a, b)
    with pytest.raises(ValueError, match="1 folders are to be joined to 2"):
        open_datasets([a, b], a)
    with pytest.raises(ValueError, match="no dataset is given"):
        open_datasets("")


def test_errors_name_both_folders(tmp_path):
    readers, _ = open_datasets(images(tmp_path / "a"), images(tmp_path / "b"))
    assert isinstance(readers[0], JoinedReader)
    assert "a/00000.data record 3" in readers[0].describe(3)
    assert "b/00000.data record 3" in readers[0].describe(3)


def test_shapes_can_be_left_out(tmp_path):
    shapes = [(4, 2, 2), (4, 3, 3), (4, 2, 2), (4, 1, 5), (4, 3, 3)]
    rows = [
        {"moments": np.full(shape, i, "<f2"), "shape": shape, "caption": str(i)}
        for i, shape in enumerate(shapes)
    ]
    reader = open_datasets(write(tmp_path / "a", rows))[0][0]
    chosen = select_shapes(reader, {(4, 1, 2, 2)})
    assert [chosen[i]["caption"] for i in range(len(chosen))] == ["1", "3", "4"]
    assert chosen.describe(2) == reader.describe(4)
    assert chosen.shapes()[0] == [(4, 1, 5), (4, 3, 3)]
    loader = Loader(chosen, batch_size=1, num_threads=0)
    seen = [next(loader) for _ in range(3)]
    assert sorted(batch.prompts[0] for batch in seen) == ["1", "3", "4"]
    assert all(batch.moments.unique().item() == int(batch.prompts[0]) for batch in seen)


def test_what_a_field_was_made_by_is_asked_where_it_comes_from(tmp_path):
    a, b = images(tmp_path / "a"), images(tmp_path / "b")
    write_identity(a, {"vae": "a"})
    write_identity(b, {"vae": "b"})
    reader = select_shapes(open_datasets(a, b)[0][0], ())
    assert identity_of(reader, "moments") == {"vae": "b"}
    assert len(reader) == 6
