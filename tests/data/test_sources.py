# SPDX-License-Identifier: Apache-2.0
"""Folders with captions beside the files, and manifests, good and bad."""

import json
import os

import pytest

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
    listing = scan(str(tmp_path))
    assert listing.failures == []
    assert listing.sources == [
        Source(str(tmp_path / "a.png"), caption="A cat."),
        Source(str(tmp_path / "b/one.jpg")),
        Source(str(tmp_path / "b/two.MP4"), "Ein Hund l\u00e4uft.", "Hund", 3, 2.0),
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
        ("a.json", b'{"caption": 5}', "caption is 5, text is wanted"),
        ("a.json", b'{"label": "dog"}', "label is 'dog', a number is wanted"),
        ("a.json", b'{"label": 1.5}', "label is 1.5, a whole number is wanted"),
        ("a.json", b'{"flow": "nan"}', "flow is 'nan', a number is wanted"),
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
        Source(str(tmp_path / "x/a.png"), 'A "red" cat, sleeping', "cat", 1),
        Source(str(tmp_path / "b.mp4"), "Gr\u00f6\u00dfe", None, 2),
    ]


def test_column_file_and_absolute_paths(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("file,flow\n/data/a.mp4,1.5\n")
    assert scan(str(path)).sources == [Source("/data/a.mp4", flow=1.5)]


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
    path.write_bytes(b'{"path": "a.png"}\n{"path": "\xff"}\n[1]\n{"name": "b.png"}\n"text"\n')
    listing = scan(str(path))
    assert len(listing.sources) == 1
    reasons = [failure.reason for failure in listing.failures]
    assert reasons[0].startswith("line 2: not a line of JSON in utf-8")
    assert reasons[1] == "line 3: list found, an object is wanted"
    assert reasons[2] == "line 4: no column path or file, there are ['name']"
    assert reasons[3] == "line 5: str found, an object is wanted"


def test_inputs_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder"):
        scan(str(tmp_path / "nowhere"))
    touch(tmp_path, "list.txt", "a.png")
    with pytest.raises(ValueError, match="a folder, a medium or one of"):
        scan(str(tmp_path / "list.txt"))
    assert len(scan(str(tmp_path / "a.png")).sources) == 1
