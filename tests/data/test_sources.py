# SPDX-License-Identifier: Apache-2.0
"""Folders with captions beside the files, and manifests, good and bad."""

import json
import os

import pytest

from diffnext.data.location import File
from diffnext.data.sources import Source, scan


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_folder(tmp_path):
    touch(tmp_path, "b/two.MP4", "a.png", "b/one.jpg", ".hidden/c.png", ".d.png", "notes.md")
    (tmp_path / "a.txt").write_text("\ufeffA cat.\n", encoding="utf-8")
    values = {
        "caption": "Ein Hund l\u00e4uft.",
        "text": "Hund",
        "label": 3,
        "flow": 2,
        "other": [1],
    }
    (tmp_path / "b/two.json").write_text(json.dumps(values), encoding="utf-8")
    touch(tmp_path, "b/c.heic", "b/d.HEIC", "README", "metadata.csv")
    listing = scan(str(tmp_path))
    assert listing.failures == []
    assert listing.others_in_words() == "files of other kinds: 2 .heic, 1 without an end, 1 .md"
    assert listing.sources == [
        Source(File(str(tmp_path / "a.png")), caption="A cat."),
        Source(File(str(tmp_path / "b/one.jpg"))),
        Source(File(str(tmp_path / "b/two.MP4")), "Ein Hund l\u00e4uft.", "Hund", 3, 2.0),
    ]


def test_json_goes_before_txt(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("from txt")
    (tmp_path / "a.json").write_text('{"caption": "from json"}')
    assert scan(str(tmp_path)).sources[0].caption == "from json"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"caf\xe9", "a.txt: 'utf-8' codec can't decode"),
        ("a.json", b"{", "a.json: Expecting"),
        ("a.json", b"[1]", "a.json: list found, an object"),
        ("a.json", b"[" * 100_000, "a.json: maximum recursion depth"),
        ("a.json", b'{"caption": 5}', "caption is 5, text is wanted"),
        ("a.json", b'{"label": "dog"}', "label is 'dog', a number is wanted"),
        ("a.json", b'{"label": 1.5}', "label is 1.5, a whole number is wanted"),
        ("a.json", b'{"flow": "nan"}', "flow is 'nan', a number is wanted"),
        ("a.json", b'{"flow": true}', "flow is True, a number is wanted"),
        ("a.json", b'{"flow": 1e39}', "flow is 1e+39, beyond the range of float32"),
        ("a.json", b'{"flow": 1%s}' % (b"0" * 400), "0, a number is wanted"),
        ("a.json", b'{"label": true}', "label is True, a number is wanted"),
        ("a.json", b'{"label": 1e30}', "label is 1e+30, which may be rounded"),
        (
            "a.json",
            b'{"label": 9007199254740992.0}',
            "label is 9007199254740992.0, which may be rounded",
        ),
        ("a.json", b'{"label": 9223372036854775808}', "label is 9223372036854775808, beyond"),
        ("a.json", b'{"label": "-9223372036854775809"}', "beyond the range of int64"),
    ],
)
def test_a_bad_file_beside_a_medium_is_a_failure_of_that_medium(tmp_path, name, content, reason):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / name).write_bytes(content)
    listing = scan(str(tmp_path))
    assert [source.path for source in listing.sources] == [str(tmp_path / "b.png")]
    [failure] = listing.failures
    assert (failure.file, failure.stage) == (str(tmp_path / "a.png"), "scan")
    assert reason in failure.reason


@pytest.mark.parametrize("value", [None, "", "  ", float("nan")])
def test_an_empty_value_leaves_the_caption_of_the_text_file(tmp_path, value):
    touch(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("from txt")
    (tmp_path / "a.json").write_text(json.dumps({"caption": value, "label": 3}))
    assert scan(str(tmp_path)).sources == [
        Source(File(str(tmp_path / "a.png")), "from txt", label=3)
    ]


def test_a_folder_that_cannot_be_read_is_a_failure(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "locked/b.png", "open/c.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = scan(str(tmp_path))
    assert [os.path.basename(source.path) for source in listing.sources] == ["a.png", "c.png"]
    [failure] = listing.failures
    assert (failure.file, failure.stage) == (str(tmp_path / "locked"), "scan")
    assert "folder cannot be read" in failure.reason and "Permission denied" in failure.reason


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "real/a.png")
    os.symlink(tmp_path / "real", tmp_path / "zlink")
    os.symlink(tmp_path, tmp_path / "real/loop")
    assert len(scan(str(tmp_path)).sources) == 1


ROWS = [
    {"path": "x/a.png", "caption": 'A "red" cat, sleeping', "text": "cat", "label": 1},
    {"path": "b.mp4", "caption": "Gr\u00f6\u00dfe", "text": None, "label": 2},
]


def write_manifest(path):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    elif path.suffix == ".csv":
        text = 'path,caption,text,label\nx/a.png,"A ""red"" cat, sleeping",cat,1\nb.mp4,Gr\u00f6\u00dfe,,2\n'
        path.write_text(text, encoding="utf-8")
    else:
        pytest.importorskip("pyarrow")
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_manifests(tmp_path, suffix):
    path = tmp_path / f"list.{suffix}"
    write_manifest(path)
    listing = scan(str(path))
    assert listing.failures == []
    assert listing.sources == [
        Source(File(str(tmp_path / "x/a.png")), 'A "red" cat, sleeping', "cat", 1),
        Source(File(str(tmp_path / "b.mp4")), "Gr\u00f6\u00dfe", None, 2),
    ]


def test_column_file_and_absolute_paths(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("file,flow\n/data/a.mp4,1.5\n")
    assert scan(str(path)).sources == [Source(File("/data/a.mp4"), flow=1.5)]


def test_bad_rows_are_failures_that_name_the_line(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b"path,caption\na.png,caf\xe9\nb.png,good\nc.xyz,what\n")
    listing = scan(str(path))
    assert [source.caption for source in listing.sources] == ["good"]
    assert [failure.reason for failure in listing.failures] == [
        "line 2: caption is not utf-8 at character 3",
        "line 4: '.xyz' is not the suffix of a picture or video",
    ]
    path = tmp_path / "list.jsonl"
    path.write_bytes(
        b'{"path": "a.png"}\n{"path": "\xff"}\n[1]\n{"name": "b.png"}\n"text"\n' + b"[" * 10**5
    )
    listing = scan(str(path))
    assert len(listing.sources) == 1
    reasons = [failure.reason for failure in listing.failures]
    assert reasons[0].startswith("line 2: not a line of JSON in utf-8")
    assert reasons[1] == "line 3: list found, an object is wanted"
    assert reasons[2] == "line 4: no column path or file, there are ['name']"
    assert reasons[3] == "line 5: str found, an object is wanted"
    assert reasons[4].startswith("line 6: not a line of JSON in utf-8: maximum recursion depth")


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("9007199254740993", 9007199254740993),  # floating point would round it
        ("-9223372036854775808", -(2**63)),
        (" 7.0 ", 7),  # as tables write a column of whole numbers with gaps
        ("1e3", 1000),
    ],
)
def test_labels_are_taken_exactly(tmp_path, value, label):
    path = tmp_path / "list.csv"
    path.write_text(f"path,label\na.png,{value}\n")
    assert [source.label for source in scan(str(path)).sources] == [label]
    if value.lstrip("-").isdigit():
        path = tmp_path / "list.jsonl"
        path.write_text(f'{{"path": "a.png", "label": {value}}}\n')
        assert [source.label for source in scan(str(path)).sources] == [label]


def test_numbers_that_no_record_holds_are_failures_that_name_the_line(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,label,flow\na.png,1e30,1\nb.png,1,1e39\nc.png,1,1\n")
    listing = scan(str(path))
    assert [source.path for source in listing.sources] == [str(tmp_path / "c.png")]
    assert [failure.reason for failure in listing.failures] == [
        "line 2: label is '1e30', which may be rounded; write all its digits",
        "line 3: flow is '1e39', beyond the range of float32",
    ]


def test_an_empty_path_is_not_a_missing_column(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,caption\n,nothing\na.png,good\n")
    listing = scan(str(path))
    assert len(listing.sources) == 1
    assert [failure.reason for failure in listing.failures] == [
        "line 2: nothing in the column path"
    ]
    path = tmp_path / "list.jsonl"
    path.write_text('{"file": 5}\n{"file": null}\n{"name": "a.png"}\n')
    assert [failure.reason for failure in scan(str(path)).failures] == [
        "line 1: file is 5, the path of a medium is wanted",
        "line 2: nothing in the column file",
        "line 3: no column path or file, there are ['name']",
    ]


def test_a_table_that_cannot_be_read_names_file_and_line(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('path,caption\na.png,good\nb.png,"' + "x" * 200_000 + '"\n')
    with pytest.raises(ValueError, match=r"--input .*list\.csv line 3: field larger than"):
        scan(str(path))


def test_a_lost_quote_does_not_swallow_the_rows_up_to_the_next_one(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('path,caption\na.png,"lost\nb.png,plain\nc.png,"quoted"\nd.png,plain\n')
    with pytest.raises(ValueError, match=r"--input .*list\.csv line 4: ',' expected after '\"'"):
        scan(str(path))
    path.write_text('path,caption\na.png,good\nb.png,"lost\nc.png,plain\n')
    with pytest.raises(ValueError, match=r"--input .*list\.csv line 4: unexpected end of data"):
        scan(str(path))


def test_inputs_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder"):
        scan(str(tmp_path / "nowhere"))
    touch(tmp_path, "list.txt", "a.png")
    with pytest.raises(ValueError, match="a folder, a medium or one of"):
        scan(str(tmp_path / "list.txt"))
    assert len(scan(str(tmp_path / "a.png")).sources) == 1
