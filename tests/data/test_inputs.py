# SPDX-License-Identifier: Apache-2.0
"""Inputs that hold the media themselves, and the names of columns that data sets use."""

import io
import json
import pickle
import re
import tarfile

import pytest

from diffnext.data import tables
from diffnext.data.location import Cell, File
from diffnext.data.sources import parse_columns, scan
from diffnext.data.sources.webdataset import expand
from tests.data.packed import (
    SAMPLES,
    greys,
    media_table,
    png,
    reasons,
    write_bytes,
    write_parquet,
    write_tar,
)


def test_a_tar_of_samples(tmp_path):
    listing = scan(str(write_tar(tmp_path / "a.tar", SAMPLES)))
    assert reasons(listing) == []
    assert [source.fields() for source in listing.sources] == [
        {"caption": "one", "label": 3},
        {"caption": "two", "label": 4},
    ]
    assert greys(listing) == [10, 20]
    first = listing.sources[0]
    assert first.path == f"{tmp_path}/a.tar/x/0001.png"
    assert first.location.kind == "image" and first.location.local_path() is None
    assert first.location.stamp()[0] == len(png(10))
    assert pickle.loads(pickle.dumps(first.location)) == first.location
    assert len(pickle.dumps(first.location)) < 300


def test_folders_and_patterns_of_tars(tmp_path):
    for number in (8, 9, 10):
        write_tar(tmp_path / f"s-{number:04d}.tar", [(f"{number}.png", png(number))])
    (tmp_path / "s-0009.txt").write_text("beside a tar, of no medium")
    assert greys(scan(str(tmp_path))) == [8, 9, 10]
    assert greys(scan(str(tmp_path / "s-{0009..0010}.tar"))) == [9, 10]
    with pytest.raises(ValueError, match=r"s-0011\.tar: no such file"):
        scan(str(tmp_path / "s-{0009..0011}.tar"))


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a.tar", ["a.tar"]),
        ("s-{8..10}.tar", ["s-8.tar", "s-9.tar", "s-10.tar"]),
        ("{a,b}-{00..01}", ["a-00", "a-01", "b-00", "b-01"]),
        ("a{b}c", ["a{b}c"]),
    ],
)
def test_patterns(pattern, paths):
    assert expand(pattern) == paths


@pytest.mark.parametrize(
    ("damage", "kept", "reason"),
    [
        (lambda data: data[:1400], 0, "no header of a member at byte 1024"),
        (lambda data: data[:4600], 1, "no header of a member at byte 4096"),
        (lambda data: data[:4650], 1, "0002.png goes beyond the end of the file|unexpected end"),
        (lambda data: data[:1024] + b"\1" * 512 + data[1536:], 0, "no header of a member at byte"),
        (lambda data: b"", 0, "cannot be read as a tar from here on: empty"),
        (lambda data: b"\x1f\x8b" + data, 0, "cannot be read as a tar from here on"),
        (lambda data: bytes(10240), 0, "no picture or video in this tar"),
    ],
)
def test_a_damaged_tar_gives_what_comes_before(tmp_path, damage, kept, reason):
    path = write_tar(tmp_path / "a.tar", SAMPLES)
    path.write_bytes(damage(path.read_bytes()))
    listing = scan(str(path))
    assert len(listing.sources) == kept
    assert len(listing.failures) == 1
    assert re.search(reason, reasons(listing)[0])


def test_bad_fields_in_a_tar_fail_their_sample(tmp_path):
    members = [("a.png", png(1)), ("a.txt", b"\xff"), ("b.png", png(2)), ("b.json", b"[]")]
    members += [("c.png", png(3)), ("c.cls", b"dog"), ("d.png", png(4)), ("d.jpg", png(5))]
    listing = scan(str(write_tar(tmp_path / "a.tar", members)))
    assert greys(listing) == [4, 5]
    assert [failure.file.rpartition("/")[2] for failure in listing.failures] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    for reason, words in zip(
        reasons(listing), ("can't decode byte", "list in .json", "label is 'dog'"), strict=True
    ):
        assert words in reason


def test_links_and_holes_in_a_tar_fail_their_sample(tmp_path):
    """Their bytes are not behind their headers: GNU tar writes links for files of several names."""
    path = write_tar(tmp_path / "a.tar", [("a.png", png(1)), ("a.txt", b"one")])
    with tarfile.open(path, "a") as tar:
        for name, kind in [("b.png", tarfile.LNKTYPE), ("c.txt", tarfile.SYMTYPE)]:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a" + name[1:]
            tar.addfile(link)
            if name == "c.txt":
                own = tarfile.TarInfo("c.png")
                own.size = len(png(3))
                tar.addfile(own, io.BytesIO(png(3)))
    listing = scan(str(path))
    assert greys(listing) == [1]
    assert [failure.file for failure in listing.failures] == [f"{path}/b.png", f"{path}/c.png"]
    for name, reason in zip(["b.png", "c.txt"], reasons(listing), strict=True):
        assert f"{name} is a link to a" in reason and "--hard-dereference" in reason


def test_a_compressed_tar_in_a_folder_is_told(tmp_path):
    for name in ("a.tar.gz", "b.TGZ", "c.tar"):
        write_tar(tmp_path / name, [("x.png", png(1))])
    for name in ("c.tar.md5", "c.tar.idx", "c.tar.json"):  # go with a tar, and are none
        (tmp_path / name).write_text("{}")
    listing = scan(str(tmp_path))
    assert greys(listing) == [1]
    assert [failure.file[-5:] for failure in listing.failures] == ["ar.gz", "b.TGZ"]
    assert "unpack it" in reasons(listing)[0]
    with pytest.raises(ValueError, match=r"a\.tar\.gz: a compressed tar; unpack it"):
        scan(str(tmp_path / "a.tar.gz"))


def write_saved(folder, table):
    """A folder as `Dataset.save_to_disk` leaves it, with a file of its cache beside the data."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir()
    for name in ("data-00000-of-00001.arrow", "cache-0123456789abcdef.arrow"):
        with pyarrow.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_saved_data_set(tmp_path):
    table = media_table([png(n) for n in (1, 2, 3)], text=["a", "b", "c"], label=[0, 1, None])
    folder = write_saved(tmp_path / "train", table)
    listing = scan(str(folder))
    assert reasons(listing) == []
    assert greys(listing) == [1, 2, 3]
    assert [s.fields() for s in listing.sources][1:] == [{"text": "b", "label": 1}, {"text": "c"}]
    assert listing.sources[2].path == f"{folder}/data-00000-of-00001.arrow/image[2]"
    write_saved(tmp_path / "test", table)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match=r"several splits; give one of .*train, .*test"):
        scan(str(tmp_path))
    (tmp_path / "dataset_dict.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset_dict\.json: not JSON .*; mend it, or remove it"):
        scan(str(tmp_path))
    (folder / "state.json").write_text("[]")
    with pytest.raises(ValueError, match=r"state\.json: list found, an object is wanted"):
        scan(str(folder))
    write_bytes(tmp_path / "test" / "a.png", png(9))
    for file in (tmp_path / "test").glob("*.arrow"):
        file.unlink()
    (tmp_path / "test" / "state.json").write_text("[]")  # of whatever else
    assert greys(scan(str(tmp_path / "test"))) == [9]
    (folder / "state.json").write_text('{"_indices_data_files": [{"filename": "i.arrow"}]}')
    with pytest.raises(ValueError, match="save it anew after flatten_indices"):
        scan(str(folder))


def test_splits_by_the_names_of_shards(tmp_path):
    (tmp_path / "[a?]").mkdir()
    for number, name in enumerate(("train-00000", "train-00001", "test-00000")):
        write_parquet(tmp_path / "[a?]" / f"{name}-of-00002.parquet", media_table([png(number)]))
    train = f"{tmp_path}/[a?]/train-*.parquet"
    with pytest.raises(
        ValueError, match=r"several splits; give one of .*/test-\*\.parquet"
    ) as told:
        scan(str(tmp_path))
    assert train in str(told.value)
    assert greys(scan(train)) == greys(scan(f"file://{train}")) == [0, 1]
    with pytest.raises(ValueError, match=r"none-\*\.parquet: no such file"):
        scan(str(tmp_path / "none-*.parquet"))


def test_parquet_shards_of_pictures(tmp_path):
    for shard in range(2):
        values = [png(10 * shard + n) for n in range(5)]
        table = media_table(values, captions=[[f"long {n}", f"other {n}"] for n in range(5)])
        write_parquet(tmp_path / f"train-{shard}.parquet", table, row_group_size=2)
    write_parquet(tmp_path / "notes.parquet", media_table([png(0)]).drop(["image"]))
    listing = scan(str(tmp_path))
    assert reasons(listing) == []
    assert greys(listing) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert listing.sources[8].fields() == {
        "caption": "long 3",
        "captions": ("long 3", "other 3"),
    }
    location = listing.sources[8].location
    assert location == Cell(f"{tmp_path}/train-1.parquet", "image", 3, "image")
    assert location.digest() == File(write_bytes(tmp_path / "x.png", png(13))).digest()
    tables._read_group.cache_clear()
    assert greys(listing) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert tables._read_group.cache_info().misses == 6  # row groups, each read once


def test_rows_with_paths_in_place_of_bytes(tmp_path):
    write_bytes(tmp_path / "b.png", png(7))
    table = media_table([png(5), None, None], paths=["a.png", "b.png", None])
    listing = scan(str(write_parquet(tmp_path / "t.parquet", table)))
    assert greys(listing) == [5, 7]
    assert reasons(listing) == ["row 2: nothing in the column image"]


def test_columns_of_bytes_go_by_their_names(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"png": [png(5)], "mask": [png(6)], "prompt": ["a cat"]})
    listing = scan(str(write_parquet(tmp_path / "t.parquet", table)))
    assert greys(listing) == [5]
    assert listing.sources[0].caption == "a cat"
    both = write_parquet(tmp_path / "u.parquet", pyarrow.table({"png": [b""], "image": [b""]}))
    with pytest.raises(ValueError, match=r"media in png, image; choose one: --columns path=png"):
        scan(str(both))
    assert scan(str(both), {"path": "image"}).sources[0].location.column == "image"


def test_a_cell_without_bytes_and_a_file_that_is_no_table(tmp_path):
    path = str(write_parquet(tmp_path / "t.parquet", media_table([png(1), None])))
    with pytest.raises(ValueError, match=r"t\.parquet/image\[1\]: there are no bytes"):
        Cell(path, "image", 1, "image").read_bytes()
    with pytest.raises(ValueError, match=r"t\.parquet has 2 rows"):
        Cell(path, "image", 2, "image").read_bytes()
    broken = write_bytes(tmp_path / "broken.parquet", b"no table")
    with pytest.raises(ValueError, match=r"broken\.parquet: "):
        scan(broken)
    assert "broken.parquet: " in reasons(scan(str(tmp_path)))[0]


def test_tables_in_a_folder_name_its_files(tmp_path):
    for name in ("a.png", "sub/b.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_bytes(tmp_path / name, png(1))
    (tmp_path / "c.txt").write_text("beside")
    rows = "file_name,text\n./a.png,cat\nsub/b.png,dog\ngone.png,none\n,empty\n"
    (tmp_path / "metadata.csv").write_text(rows)
    listing = scan(str(tmp_path))
    assert [(s.text, s.caption) for s in listing.sources] == [
        ("cat", None),
        (None, "beside"),
        ("dog", None),
    ]
    assert reasons(listing) == [
        "line 5: nothing in the column file_name",
        "metadata.csv line 4: no such file",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", b'file_name,text\na.png,"lost\n'),
        ("metadata.parquet", b"no table"),
        ("videos2caption.json", b"{"),
    ],
)
def test_a_folder_whose_captions_cannot_be_read_is_refused(tmp_path, name, content):
    """Its media could be encoded, but without the captions that they have."""
    write_bytes(tmp_path / "a.png", png(1))
    write_bytes(tmp_path / name, content)
    with pytest.raises(ValueError, match=rf"{name}.*are in {name}: mend it, or move it away"):
        scan(str(tmp_path))


def test_a_list_of_videos_with_several_captions(tmp_path):
    """As FastVideo lays it out: videos in a folder of their own."""
    (tmp_path / "videos").mkdir()
    write_bytes(tmp_path / "videos/a.mp4", b"")
    entries = [{"path": "a.mp4", "cap": ["one", "two", "one", " "], "fps": 24}, {"cap": []}, 5]
    manifest = tmp_path / "videos2caption.json"
    manifest.write_text(json.dumps(entries))
    for given in (manifest, tmp_path):
        listing = scan(str(given))
        [source] = listing.sources
        assert source.path == str(tmp_path / "videos/a.mp4")
        assert source.fields() == {"caption": "one", "captions": ("one", "two")}
        assert reasons(listing) == [
            "entry 1: no column path or file, there are ['cap']",
            "entry 2: int found, an object is wanted",
        ]
    manifest.write_text("{}")
    with pytest.raises(ValueError, match="dict found, a list is wanted"):
        scan(str(manifest))


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"caption": ["a", "b"]}, {"caption": "a", "captions": ("a", "b")}),
        ({"caption": "a", "captions": ["b", "a", None]}, {"caption": "a", "captions": ("a", "b")}),
        ({"captions": '["a", "b"]'}, {"caption": "a", "captions": ("a", "b")}),
        ({"text": ["a", "b"]}, {"caption": "a", "captions": ("a", "b")}),
        ({"captions": ["a"], "text": "t"}, {"caption": "a", "text": "t"}),
        ({"caption": "", "prompt": "p", "text": "t"}, {"caption": "p", "text": "t"}),
        ({"txt": "p", "cls": 1}, {"caption": "p", "label": 1}),  # of tars that became tables
        ({"captions": [], "class": 3}, {"label": 3}),
        ({"caption": float("nan"), "text": None, "cls": "4"}, {"label": 4}),
        ({"captions": ["a", 5]}, "captions[1] is 5, text is wanted"),
        ({"captions": "a"}, "captions is 'a', a list is wanted"),
        ({"label": [1]}, "label is [1], one value is wanted"),
    ],
)
def test_captions_and_labels_of_a_row(tmp_path, row, fields):
    (tmp_path / "list.jsonl").write_text(json.dumps({"image": "a.png", **row}))
    listing = scan(str(tmp_path / "list.jsonl"))
    if isinstance(fields, str):
        assert fields in reasons(listing)[0]
    else:
        assert listing.sources[0].fields() == fields


def test_columns_are_chosen(tmp_path):
    (tmp_path / "list.csv").write_text("where,recap,caption\na.png,new,old\n")
    columns = parse_columns("caption=recap, path=where")
    [source] = scan(str(tmp_path / "list.csv"), columns).sources
    assert (source.path, source.caption) == (str(tmp_path / "a.png"), "new")
    with pytest.raises(ValueError, match="field=column is wanted"):
        parse_columns("caption")
    with pytest.raises(ValueError, match=r"no field 'title'; there are path, caption"):
        scan(str(tmp_path / "list.csv"), {"title": "x"})
    missing = scan(str(tmp_path / "list.csv"), {"path": "nowhere"})
    assert reasons(missing) == [
        "line 2: no column nowhere, there are ['caption', 'recap', 'where']"
    ]
