# SPDX-License-Identifier: Apache-2.0
"""Builds from tars, tables and URLs give the records that the plain files give."""

import json
import tarfile

import codewithgpu
import numpy as np
import pytest

from diffnext.data.journal import Journal
from diffnext.data.records import open_reader
from tests.data.cache_builds import assert_complete, plan_for, run, write_picture


def as_tar(photos, path):
    with tarfile.open(path, "w") as tar:
        for file in sorted(photos.iterdir()):
            tar.add(file, file.name)
    return path


def as_parquet(photos, path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pictures = sorted(photos.glob("*.png"))
    media = [{"bytes": picture.read_bytes(), "path": None} for picture in pictures]
    texts = [picture.with_suffix(".txt").read_text() for picture in pictures]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(media, kind), "prompt": texts})
    parquet.write_table(table, path, row_group_size=3)
    return path


def as_url(photos, path):
    system = pytest.importorskip("fsspec").filesystem("memory")
    for file in photos.iterdir():
        system.pipe(f"/builds/{file.name}", file.read_bytes())
    return "memory://builds"


@pytest.mark.parametrize(
    ("pack", "name"), [(as_tar, "a.tar"), (as_parquet, "a.parquet"), (as_url, "")]
)
def test_all_inputs_give_the_same_records(photos, tmp_path, pack, name):
    packed = pack(photos, tmp_path / name)
    assert run(packed, tmp_path / "cache").written == 7
    assert_complete(photos, tmp_path / "cache")
    assert run(packed, tmp_path / "cache").written == 0
    paths = [entry.path for entry in Journal(str(tmp_path / "cache"), 7).entries]
    assert len(set(paths)) == 7 and all(path.startswith(str(packed)) for path in paths)


def test_samples_keep_their_records_when_files_move_into_a_tar(photos, tmp_path):
    run(photos, tmp_path / "cache")
    plan = plan_for(as_tar(photos, tmp_path / "a.tar"), tmp_path / "cache")
    assert plan.tasks == []


@pytest.mark.parametrize(("pack", "name"), [(as_tar, "a.tar"), (as_parquet, "a.parquet")])
def test_a_table_that_is_written_anew_gives_what_is_new_in_it(photos, tmp_path, pack, name):
    run(pack(photos, tmp_path / name), tmp_path / "cache")
    write_picture(photos, "p00", 9)  # so that all others have other numbers
    (photos / "p6.png").unlink()
    plan = plan_for(pack(photos, tmp_path / name), tmp_path / "cache")
    assert (plan.present, [item.source.caption[8:11] for item in plan.items]) == (6, ["p00"])
    assert len(plan.stale) == 1


def test_captions_of_a_sample_are_stored_as_a_list(photos, tmp_path):
    (photos / "p2.json").write_text(json.dumps({"captions": ["Zwei.", "Two."]}))
    (photos / "p2.txt").unlink()
    assert run(photos, tmp_path / "cache").written == 7
    record = open_reader(tmp_path / "cache")[2]
    assert (record["caption"], record["captions"]) == ("Zwei.", ["Zwei.", "Two."])
    first = next(codewithgpu.RecordDataset(str(tmp_path / "cache")))
    assert first["captions"] == [first["caption"]] == ["Picture p0. It is noise."]
    assert np.frombuffer(first["moments"], np.float16).size == np.prod(first["shape"])
