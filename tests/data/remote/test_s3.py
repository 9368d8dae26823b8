# SPDX-License-Identifier: Apache-2.0
"""Records in a bucket, with a server that speaks S3."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from diffnext.data.datasets import open_datasets
from diffnext.data.loader import Loader
from diffnext.data.records import open_reader, write_identity
from diffnext.data.remote.reader import RemoteReader
from tests.data.record_rows import write
from tests.data.remote.test_http import copies, same_as, wait_for_copies
from tests.runs.test_overfit import train
from tests.runs.tiny_nova import make_run

s3fs = pytest.importorskip("s3fs")
servers = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def s3():
    """The address of a server with a bucket "caches"."""
    server = servers.ThreadedMotoServer(port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server.start()
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        system(url).mkdir("caches")
        yield url
        server.stop()


def system(url):
    return s3fs.S3FileSystem(endpoint_url=url, skip_instance_cache=True, use_listings_cache=False)


def upload(url, folder, name):
    fs = system(url)
    for path in Path(folder).iterdir():
        fs.pipe_file(f"caches/{name}/{path.name}", path.read_bytes())
    return f"s3://caches/{name}"


def options(url, tmp_path, **more):
    return {"folder": str(tmp_path / "copies"), "options": {"endpoint_url": url}} | more


def test_a_bucket_is_read_like_a_folder(s3, tmp_path):
    folder = write(tmp_path / "cache", 40, max_examples=8)
    url = upload(s3, folder, "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        reader = RemoteReader(url, **options(s3, tmp_path))
        assert same_as(folder, reader)
    wait_for_copies(reader, 5)
    for name in copies(reader):
        assert Path(reader.folder, name).read_bytes() == (folder / name).read_bytes()
    reader.close()


def test_weights_and_local_folders_beside(s3, tmp_path):
    folder = write(tmp_path / "cache", 12, max_examples=8)
    url = upload(s3, folder, "weighted")
    remote = options(s3, tmp_path)
    one, two = ([str(folder), f"{folder}:2"], f"{folder},{url}:2")
    batches = []
    for spec in (one, two):
        readers, weights = open_datasets(spec, remote=remote)
        assert weights == [1, 2]
        loader = Loader(readers, batch_size=4, num_threads=2, weights=weights)
        batches.append([next(loader) for _ in range(9)])
        loader.close()
    for a, b in zip(*batches, strict=True):
        assert a.index.tolist() == b.index.tolist() and a.moments.equal(b.moments)


def test_a_mark_that_is_no_md5_is_found_out(s3, tmp_path, monkeypatch):
    """As of objects that are encrypted with a key of the customer's."""
    folder = write(tmp_path / "cache", 8)
    url = upload(s3, folder, "encrypted")
    monkeypatch.setattr("diffnext.data.remote.store._md5", lambda entry: "0" * 32)
    monkeypatch.setattr("diffnext.data.remote.store.PAUSE_S", 0.01)
    reader = RemoteReader(url, **options(s3, tmp_path))
    assert same_as(folder, reader)
    wait_for_copies(reader, 1)
    reader.close()


def test_a_run_trains_from_a_bucket(s3, tmp_path, capsys):
    config = make_run(tmp_path, "t2i", **{"SOLVER.MAX_STEPS": 3})
    write_identity(tmp_path / "cache", {"normalisation": "scaled"})
    url = upload(s3, tmp_path / "cache", "run")
    remote = ["TRAIN.REMOTE_CONFIG", str(options(s3, tmp_path, gib=1))]
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path / "run"), *remote]
    assert train(*arguments, "TRAIN.DATASET", url) == 2
    assert "normalisation: the cache has 'scaled'" in capsys.readouterr().err
    system(s3).rm_file("caches/run/diffnext.json")
    assert train(*arguments, "TRAIN.DATASET", f"{url}:2") == 0
    assert (
        f"remote     {url}: 0.00 GiB, copied once to {tmp_path}/copies"
        in (tmp_path / "run/logs/train.log").read_text()
    )


def test_a_bucket_without_records(s3, tmp_path):
    with pytest.raises(ValueError, match=r"s3://caches/nothing"):
        open_datasets("s3://caches/nothing", remote=options(s3, tmp_path))


def test_large_records_come_in_pieces(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("diffnext.data.remote.shards.CHUNK", 1000)
    folder = write(tmp_path / "cache", 40)
    url = upload(s3, folder, "pieces")
    reader = RemoteReader(url, **options(s3, tmp_path))
    reader[0]
    wait_for_copies(reader, 1)
    assert Path(reader.folder, "00000.data").read_bytes() == (folder / "00000.data").read_bytes()
    assert os.path.getsize(folder / "00000.data") > 10_000
    assert np.array_equal(reader[39]["moments"], open_reader(folder)[39]["moments"])
    reader.close()
