# SPDX-License-Identifier: Apache-2.0
"""Records in a bucket of Google's, with a server that speaks the JSON API that gcsfs reads by."""

from pathlib import Path

import pytest

from diffnext.data import urls
from diffnext.data.datasets import open_datasets
from diffnext.data.location import of_path
from diffnext.data.remote.reader import RemoteReader
from tests.data.packed import png
from tests.data.record_rows import write
from tests.data.remote.gcs import serving_bucket
from tests.data.remote.test_http import copies, same_as, wait_for_copies


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket with 40 records in five shards, and a picture."""
    root = tmp_path_factory.mktemp("bucket")
    write(root / "photos", 40, max_examples=8)
    (root / "media").mkdir()
    (root / "media" / "a.png").write_bytes(png(7))
    return root


@pytest.fixture
def web(bucket, monkeypatch):
    # or it asks by gRPC what kind of bucket this is, for a minute
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    core = pytest.importorskip("gcsfs.core")
    registry = pytest.importorskip("fsspec.registry")
    monkeypatch.setitem(registry._registry, "gs", core.GCSFileSystem)
    monkeypatch.setattr("diffnext.data.remote.store.PAUSE_S", 0.01)
    with serving_bucket(bucket) as web:
        yield web


def options(web, tmp_path):
    server = {"endpoint_url": web.url.removesuffix("/cache"), "token": "anon"}
    return {"folder": str(tmp_path / "copies"), "options": server, "attempts": 3}


def test_a_bucket_is_the_folder(bucket, web, tmp_path):
    [reader], weights = open_datasets("gs://caches/photos:2", remote=options(web, tmp_path))
    assert weights == [2.0] and same_as(bucket / "photos", reader)
    wait_for_copies(reader, 5)
    for name in copies(reader):
        assert Path(reader.folder, name).read_bytes() == (bucket / "photos" / name).read_bytes()
    before = web.gets.copy()
    assert same_as(bucket / "photos", reader) and web.gets == before
    assert reader.describe(9).startswith("gs://caches/photos/00001.data record 1 ")
    assert {len(file.md5) for file in reader.remote_files.values()} == {32}
    reader.close()


def test_what_changes_on_the_way(bucket, web, tmp_path):
    reader = RemoteReader("gs://caches/photos", **options(web, tmp_path))
    web.faults["00002.data"] = ["", "flip"]
    reader[16]
    wait_for_copies(reader, 1)  # the first attempt had another md5
    assert not web.faults["00002.data"] and same_as(bucket / "photos", reader)
    reader.close()


def test_what_is_not_there(web, tmp_path):
    with pytest.raises(ValueError, match=r"gs://caches/nothing/METADATA cannot be read"):
        open_datasets("gs://caches/nothing", remote=options(web, tmp_path))


def test_media(web, monkeypatch):
    import fsspec.config

    server = {"endpoint_url": web.url.removesuffix("/cache"), "token": "anon"}
    monkeypatch.setitem(fsspec.config.conf, "gs", server)
    medium = of_path("gs://caches/media/a.png")
    assert medium.stamp()[0] == len(png(7)) and medium.stamp()[1] > 0
    assert medium.read_bytes() == png(7)
    assert urls.find("gs://caches/media") == ["gs://caches/media/a.png"]
    with medium.handle() as stream:
        assert stream.read() == png(7)
