# SPDX-License-Identifier: Apache-2.0
"""Records behind a web server that fails now and then are those of the folder, or an error."""

import pickle
import re
import shutil
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from diffnext.data.datasets import open_datasets
from diffnext.data.loader import Loader
from diffnext.data.records import open_reader
from diffnext.data.records.base import RecordError
from diffnext.data.remote import store as stores
from diffnext.data.remote.reader import RemoteReader
from diffnext.data.remote.store import RemoteError
from tests.children import LONG_S
from tests.data.record_rows import write
from tests.data.remote.web import serving

pytest.importorskip("aiohttp")
fcntl = pytest.importorskip("fcntl")
pytestmark = [  # of a file that nobody closed
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]
COUNT = 40
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 records of three shapes in five shards, with index, checksums and shapes beside them."""
    return write(tmp_path_factory.mktemp("origin") / "cache", COUNT, max_examples=8)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stores, "PAUSE_S", 0.01)


@pytest.fixture
def web(folder):
    with serving(folder) as web:
        yield web


@pytest.fixture
def opened(tmp_path):
    """Opens readers with copies below tmp_path, and closes them."""
    readers = []

    def make(web, **options):
        readers.append(RemoteReader(web.url, folder=str(tmp_path / "copies"), **options))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


def read_all(reader):
    """Every record, its moments read into memory as a loader does."""
    records = []
    for index in range(len(reader)):
        out = bytearray(2 * int(np.prod(reader[index]["shape"])))
        (record,) = reader.read_into([index], "moments", [memoryview(out)])
        records.append({**record, "moments": bytes(out)})
    return records


def same_as(folder, reader):
    local = open_reader(folder)
    assert len(reader) == len(local) and reader.fields == local.fields
    return read_all(reader) == read_all(local)


def copies(reader):
    return sorted(path.name for path in Path(reader.folder).glob("*.data"))


def wait_for_copies(reader, count):
    deadline = time.monotonic() + LONG_S
    while len(copies(reader)) < count:
        assert time.monotonic() < deadline, copies(reader)
        time.sleep(0.01)


def test_a_remote_folder_is_the_folder(folder, web, opened):
    reader, local = opened(web), open_reader(folder)
    assert same_as(folder, reader)
    assert reader.groups()[0][0] == local.groups()[0][0]
    assert [ids.tolist() for _, ids in reader.groups()] == [g.tolist() for _, g in local.groups()]
    assert reader.describe(9).startswith(f"{web.url}/00001.data record 1 ")


def test_shards_are_copied_behind_the_reads_and_used_from_then_on(folder, web, opened):
    reader = opened(web)
    reader[0]
    wait_for_copies(reader, 1)
    assert copies(reader) == ["00000.data"]
    same_as(folder, reader)
    wait_for_copies(reader, 5)
    before = web.sent.copy()
    assert same_as(folder, reader) and web.sent == before


def test_the_second_opening_fetches_nothing_that_is_there(folder, web, opened):
    first = opened(web)
    same_as(folder, first)
    wait_for_copies(first, 5)
    before = web.sent.copy()
    assert same_as(folder, opened(web))
    assert web.sent - before == {"METADATA": 1}  # whether ranges are answered


def test_shapes_come_from_the_index_not_from_the_records(web, opened):
    reader = opened(web)
    assert len(reader.groups()) == 3
    assert not any(name.endswith(".data") for name in web.sent)


@pytest.mark.parametrize("fault", ["500", "drop", "short", "long"])
def test_what_fails_twice_is_asked_for_again(folder, web, opened, fault):
    for name in ("METADATA", "00002.index", "00002.check", "00002.data"):
        web.faults[name] = [fault] * 2
    reader = opened(web)
    assert same_as(folder, reader)
    wait_for_copies(reader, 5)
    assert not any(web.faults.values())
    for name in copies(reader):
        with open(f"{reader.folder}/{name}", "rb") as stream:
            assert stream.read() == (folder / name).read_bytes()


def test_faults_while_a_copy_is_made_leave_no_part_of_it(folder, web, opened):
    reader = opened(web)
    web.faults["00000.data"] = ["", "drop", "short", "500", "long"]
    reader[0]
    wait_for_copies(reader, 1)
    with open(f"{reader.folder}/00000.data", "rb") as stream:
        assert stream.read() == (folder / "00000.data").read_bytes()


def test_a_shard_that_cannot_be_had_is_an_error_that_says_so(web, opened):
    reader = opened(web, attempts=3)
    web.faults["00003.data"] = ["500"] * 100
    with pytest.raises(RemoteError, match=r"/cache/00003\.data cannot be read: 3 attempts failed"):
        reader[27]
    web.forbidden.add("00001.data")
    with pytest.raises(RemoteError, match=r"00001\.data cannot be read: .*403"):
        reader[9]


def test_a_copy_that_cannot_be_had_is_an_error_of_the_next_read(web, opened):
    reader = opened(web, attempts=3)
    web.faults["00003.data"] = ["", *["drop"] * 100]
    reader[27]
    with pytest.raises(RemoteError, match=r"00003\.data cannot be read"):
        for _ in range(10_000):
            reader[0]
            time.sleep(0.01)
    assert not [name for name in copies(reader) if name == "00003.data"]


def test_a_byte_that_changes_on_the_way_is_seen_by_its_record(web, opened):
    reader = opened(web)
    web.faults["00000.data"] = ["flip"]
    with pytest.raises(RecordError, match=rf"^{web.url}/00000\.data record 0 .*is damaged"):
        reader[0]


def test_a_byte_that_changes_on_the_way_does_not_stay(folder, web, opened):
    reader = opened(web)
    web.faults["00000.data"] = ["", "flip"]
    reader[0]
    wait_for_copies(reader, 1)
    assert not web.faults["00000.data"]
    assert same_as(folder, reader)


def test_damage_that_was_there_before_is_copied_and_told(folder, tmp_path, opened):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    with open(damaged / "00001.data", "r+b") as stream:
        stream.seek(100)
        stream.write(b"damage")
    with serving(damaged) as web:
        reader = opened(web)
        for index in range(16, 40):
            reader[index]
        reader[15]
        wait_for_copies(reader, 4)
        with pytest.raises(RecordError, match=r"record 0 .*is damaged"):
            reader[8]


def test_a_server_of_whole_files(folder, tmp_path):
    with serving(folder, ranges=False) as web:
        web.faults["00002.data"] = ["drop", "500"]
        reader = RemoteReader(web.url, folder=str(tmp_path))
        assert same_as(folder, reader)
        assert len(copies(reader)) == 5
        reader.close()
        with pytest.raises(
            RemoteError, match=r"hands out whole files alone, \d+ bytes .*hold 1023;"
        ):
            RemoteReader(web.url, folder=str(tmp_path / "small"), gib=1023.5 / 2**30)


def test_a_server_that_lists_nothing(folder, tmp_path):
    with serving(folder, lists=False) as web:
        reader = RemoteReader(web.url, folder=str(tmp_path))
        assert same_as(folder, reader)
        reader.close()


def test_a_folder_that_grows_is_another_version(folder, tmp_path, opened):
    grown = shutil.copytree(folder, tmp_path / "grown")
    with serving(grown) as web:
        before = opened(web)
        write(grown, 3, first=COUNT, append=True)
        after = opened(web)
        assert (len(before), len(after)) == (COUNT, COUNT + 3)
        assert before.folder != after.folder and same_as(grown, after)


def test_what_does_not_fit_is_read_by_ranges_and_told(folder, web, opened):
    size = (folder / "00000.data").stat().st_size
    reader = opened(web, gib=2.5 * size / 2**30)
    for _ in range(3):
        assert same_as(folder, reader)
    assert len(copies(reader)) == 2
    assert reader.about().startswith(
        f"WARNING    {web.url} has 0.00 GiB, of which a part is copied"
    )


def test_a_cache_that_is_not_read_any_more_makes_room(folder, tmp_path, opened):
    total = sum(path.stat().st_size for path in folder.glob("*.data"))
    with serving(folder) as first, serving(folder) as second:
        old = opened(first, gib=1.5 * total / 2**30)
        same_as(folder, old)
        wait_for_copies(old, 5)
        new = opened(second, gib=1.5 * total / 2**30)
        same_as(folder, new)
        time.sleep(0.2)
        assert len(copies(old)) == 5 and len(copies(new)) < 5  # one that is read stays
        old.close()
        old.release()
        new.close()
        assert same_as(folder, new)
        wait_for_copies(new, 5)
        assert not copies(old)


def test_drafts_of_killed_processes_take_no_room(folder, web, opened):
    reader = opened(web, gib=(folder / "00000.data").stat().st_size * 1.5 / 2**30)
    with open(f"{reader.folder}/00004.data.part", "wb") as stream:
        stream.truncate(10**9)
    reader[0]
    wait_for_copies(reader, 1)
    assert len(copies(reader)) == 1


def test_what_a_killed_removal_left_is_not_read(folder, tmp_path, opened, monkeypatch):
    """A process makes room for another cache and ends in the midst of it."""
    one = (folder / "00000.data").stat().st_size * 1.5 / 2**30
    with serving(folder) as first, serving(folder) as second:
        old = opened(first, gib=one)
        old[0]
        wait_for_copies(old, 1)
        old.close()
        old.release()

        def killed(path, **_):
            (Path(path) / "METADATA").unlink()
            (Path(path) / "00001.index").unlink()
            raise OSError("the end")

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", killed)
            new = opened(second, gib=one)
            new[0]
            deadline = time.monotonic() + LONG_S
            while list(Path(old.folder).glob("METADATA")):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            new.close()
        assert same_as(folder, opened(first, gib=one))
        hidden = [path for path in (tmp_path / "copies").iterdir() if path.name.startswith(".")]
        assert hidden == []


def test_a_folder_that_was_never_whole_is_made_again(folder, web, opened):
    reader = opened(web)
    reader.close()
    reader.release()
    for name in ("in_use", "00001.index"):
        (Path(reader.folder) / name).unlink()
    assert same_as(folder, opened(web))


def test_a_shard_whose_copier_was_killed_is_copied_later(folder, web, opened, monkeypatch):
    monkeypatch.setattr("diffnext.data.remote.shards.AGAIN_S", 0.05)
    reader = opened(web)
    with open(f"{reader.folder}/00000.data.part", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # another process is at it
        reader[0]
        time.sleep(0.2)
        assert copies(reader) == []
    time.sleep(0.1)
    reader[0]
    wait_for_copies(reader, 1)


def test_a_foreign_folder_is_copied_to_find_its_shapes(folder, tmp_path, opened):
    foreign = tmp_path / "foreign"
    shutil.copytree(folder, foreign, ignore=shutil.ignore_patterns("diffnext.*", "*.check"))
    with serving(foreign) as web:
        reader = opened(web)
        assert len(reader.groups()) == 3 and len(copies(reader)) == 5
        with pytest.raises(ValueError, match="that knows the shapes") as refused:
            opened(web, gib=1 / 2**20).groups()
        [code] = re.findall('python -c "(.*)"', str(refused.value))
        exec(code.replace("FOLDER", str(foreign)))
        assert len(opened(web, gib=1 / 2**20).groups()) == 3


def test_readers_travel_between_processes(folder, web, opened):
    reader = opened(web, attempts=4)
    other = pickle.loads(pickle.dumps(reader))
    assert other.folder == reader.folder and same_as(folder, other)
    other.close()


READ_ALL = """
import sys, time, zlib
from pathlib import Path
from diffnext.data.remote.reader import RemoteReader

reader = RemoteReader(sys.argv[1], folder=sys.argv[2])
crc = 0
for index in range(len(reader)):
    crc = zlib.crc32(reader[index]["moments"], crc)
while len(list(Path(reader.folder).glob("*.data"))) < 5:
    time.sleep(0.01)
print(crc)
"""


def test_processes_of_a_node_share_their_copies(folder, web, tmp_path):
    words = [sys.executable, "-c", READ_ALL, web.url, str(tmp_path)]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen(words, **options) for _ in range(3)]
    local, crc = open_reader(folder), 0
    for index in range(COUNT):
        crc = zlib.crc32(local[index]["moments"], crc)
    assert [reader.communicate()[0].strip() for reader in readers] == [str(crc)] * 3
    [home] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert not list(home.glob("*.part"))
    for shard in folder.glob("*.data"):
        assert (home / shard.name).read_bytes() == shard.read_bytes()


def test_a_loader_reads_the_same_batches(folder, web, tmp_path):
    local, _ = open_datasets(str(folder))
    away, weights = open_datasets(f"{web.url}:2", remote={"folder": str(tmp_path)})
    assert weights == [2.0]
    one, two = (Loader(r, batch_size=4, num_threads=2) for r in (local, away))
    for _ in range(12):
        a, b = next(one), next(two)
        assert a.index.tolist() == b.index.tolist() and a.prompts == b.prompts
        assert a.moments.equal(b.moments)
    one.close()
    two.close()


def test_what_is_no_cache_is_refused(tmp_path, web):
    remote = {"folder": str(tmp_path), "attempts": 2}
    with pytest.raises(ValueError, match="nowhere/METADATA cannot be read"):
        open_datasets("http://127.0.0.1:1/nowhere", remote=remote)
    with pytest.raises(ValueError, match=r"nothing://a/b needs|Protocol not known: nothing"):
        open_datasets("nothing://a/b", remote=remote)


def test_warnings_are_errors_here(folder, web, opened):
    """A remote folder with checksums and METADATA gives no reason for a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_as(folder, opened(web))
