# SPDX-License-Identifier: Apache-2.0
"""What a build fetches over a network, by the requests that a server gets."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from diffnext.data.cache import build
from diffnext.data.cache_part import Tools
from diffnext.data.cache_ranks import build_shared, lock_of
from diffnext.data.latents import Latents
from diffnext.data.location import Cell, Url, of_path
from diffnext.data.shelf import SHELF, Kept, Shelf
from diffnext.data.sources import Listing, Source, scan
from diffnext.data.view_rules import ViewRules
from tests.data.cache_builds import plan_of, records, write_photos
from tests.data.clips import write_clip
from tests.data.packed import media_table, png, write_parquet, write_tar
from tests.data.remote.web import serving

pytest.importorskip("aiohttp")
OPTIONS = {
    "rules": ViewRules(sizes=(((32, 48),),), num_frames=(1, 5)),
    "latents": Latents(channels=4, time_stride=4, space_stride=8),
}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Seven pictures and a clip, with captions."""
    folder = write_photos(tmp_path_factory.mktemp("shelf") / "media")
    write_clip(folder / "clip.mp4", 8)
    (folder / "clip.txt").write_text("A clip.")
    return folder


@pytest.fixture
def web(media):
    with serving(media) as web:
        yield web


@pytest.fixture(scope="module")
def wanted(media, tmp_path_factory):
    """The records of a build from the local folder."""
    output = tmp_path_factory.mktemp("local") / "c"
    build(plan_of(scan(str(media)), str(output), **OPTIONS), encode, workers=0)
    return records(output)


def encode(frames):
    """Means of 8 x 8 pixels in place of moments: (B, T, H, W, 3) to (B, 8, T', H / 8, W / 8)."""
    batch, count, height, width, _ = frames.shape
    blocks = frames.reshape(batch, count, height // 8, 8, width // 8, 8, 3).mean(axis=(3, 5))
    moments = np.moveaxis(blocks, -1, 1)[:, :, ::4]
    return np.tile(moments, (1, 3, 1, 1, 1))[:, :8].astype(np.float16)


def build_behind(web, output, most_bytes=None):
    """Build from media behind a server. Returns how many it planned to encode, and kept copies of."""
    listing = Listing()
    for path in sorted(web.folder.glob("*.png")) + sorted(web.folder.glob("*.mp4")):
        caption = path.with_suffix(".txt").read_text()
        listing.sources.append(Source(of_path(f"{web.url}/{path.name}"), caption))
    output.mkdir(exist_ok=True)
    with Shelf(str(output), most_bytes) as shelf:
        listing.sources = shelf.serve(listing.sources)
        plan = plan_of(listing, str(output), **OPTIONS, remember=True)
        plan.tasks = pickle.loads(pickle.dumps(plan.tasks))  # as for another process
        kept = [task for task in plan.tasks if task.source.location.local_path()]
        held = sum(path.stat().st_size for path in (output / SHELF).glob("*"))
        assert most_bytes is None or held <= most_bytes
        assert build(plan, encode, workers=0).failures == []
    assert not (output / SHELF).exists()
    return len(plan.tasks), len(kept)


def same(output, wanted):
    found = records(output)
    return found.keys() == wanted.keys() and all(np.array_equal(found[k], wanted[k]) for k in found)


def test_each_medium_is_fetched_once(media, web, wanted, tmp_path):
    assert build_behind(web, tmp_path / "c") == (8, 8)
    assert set(web.gets.values()) == {1}
    assert web.sent == {name: (media / name).stat().st_size for name in web.gets}
    assert same(tmp_path / "c", wanted)
    before = web.gets.copy()
    assert build_behind(web, tmp_path / "c") == (0, 0)
    assert web.gets == before


def test_what_may_be_an_old_one_is_fetched_once_to_find_out(media, wanted, tmp_path):
    photos = write_photos(tmp_path / "photos")
    with serving(photos) as web:
        build_behind(web, tmp_path / "c")
        for suffix in ("png", "txt"):
            (photos / f"p3.{suffix}").rename(photos / f"q.{suffix}")
        web.gets.clear()
        assert build_behind(web, tmp_path / "c") == (0, 0)
        assert +web.gets == {"q.png": 1}


def test_without_room_it_is_fetched_again(media, web, wanted, tmp_path):
    size = (media / "p0.png").stat().st_size
    tasks, kept = build_behind(web, tmp_path / "c", 2.5 * size)
    assert (tasks, kept) == (8, 3)  # the clip is small
    assert web.gets["p0.png"] == web.gets["p1.png"] == 1 < web.gets["p2.png"]
    assert same(tmp_path / "c", wanted)


def test_a_copy_goes_when_all_its_views_are_read(web, wanted, tmp_path, monkeypatch):
    """Each medium is read twice here, as for many frames; one is dropped by the rules."""
    monkeypatch.setattr("diffnext.data.cache_plan.TASK_BYTES", 1)
    output = tmp_path / "c"
    output.mkdir()
    rules = ViewRules(sizes=(((32, 48), (64, 64)),), num_frames=(1,), windows=None, flip=True)
    with Shelf(str(output)) as shelf:
        names = [f"{web.url}/p{n}.png" for n in (0, 1, 1)] + [f"{web.url}/clip.mp4"]
        listing = Listing(shelf.serve(Source(of_path(name), "A caption.") for name in names))
        plan = plan_of(listing, str(output), **{**OPTIONS, "rules": rules})
        there = [copies(shelf)]
        shelf.expect(task.source.location for task in plan.tasks)

        def note(frames):
            there.append(copies(shelf))
            return encode(frames)

        report = build(plan, note, workers=0, batch_size=1)
        assert report.written == len(plan.items) and report.failures == []
        assert there == [3, 2, 2, 1, 1, 1, 1]
        assert os.listdir(shelf.folder) == []


def test_copies_go_with_the_units_of_many_processes(web, tmp_path):
    """As soon as their records are safe; that of a medium that is listed twice stays to the end."""
    output = str(tmp_path / "c")
    with lock_of(output) as lock, Shelf(output) as shelf:
        names = [f"{web.url}/p{n}.png" for n in (0, 1, 1, 2, 3)]
        listing = Listing(shelf.serve(Source(of_path(name), "A caption.") for name in names))
        plan = plan_of(listing, output, **OPTIONS)
        shelf.expect(task.source.location for task in plan.tasks)
        there = [copies(shelf)]
        tools = Tools(lambda: encode, batch_size=1, workers=0)
        report = build_shared(
            plan, tools, lock=lock, asked={}, show=lambda _: there.append(copies(shelf))
        )
        assert (report.written, report.failures) == (5, [])
        assert there == sorted(there, reverse=True) and there[0] == 4
        assert os.listdir(shelf.folder) == [os.path.basename(plan.tasks[1].source.location.path)]
    assert set(web.gets.values()) == {1}


def copies(shelf):
    return len(os.listdir(shelf.folder))


def test_a_full_disk_ends_the_copies_and_not_the_build(web, wanted, tmp_path, monkeypatch):
    def full(self, path):
        open(path, "wb").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Url, "copy_to", full)
    assert build_behind(web, tmp_path / "c") == (8, 0)
    assert same(tmp_path / "c", wanted)


def test_a_disk_too_full_for_a_folder_is_done_without(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.png").write_bytes(png(1))
    with serving(tmp_path / "m") as web, Shelf(str(tmp_path)) as shelf:
        (source,) = shelf.serve(scan(f"{web.url}/a.png").sources)
        with monkeypatch.context() as patch:
            patch.setattr("diffnext.data.shelf.os.makedirs", full)
            assert not source.location.fetch(source.location.stamp())
        assert source.location.read_bytes() == png(1)


def test_members_of_tars_and_cells_of_tables(tmp_path):
    (tmp_path / "m").mkdir()
    write_tar(tmp_path / "m" / "a.tar", [("a.png", png(1)), ("b.png", png(2))])
    write_parquet(tmp_path / "m" / "t.parquet", media_table([png(3), png(4)]))
    with serving(tmp_path / "m") as web, Shelf(str(tmp_path)) as shelf:
        sources = scan(f"{web.url}/a.tar").sources
        cells = [Cell(f"{web.url}/t.parquet", "image", row, "image") for row in (0, 1)]
        sources = shelf.serve([*sources, *map(Source, cells)])
        for source in sources:
            assert source.location.fetch(source.location.stamp())
        before = web.gets.copy()
        found = [source.location.read_bytes() for source in sources]
        assert found == [png(grey) for grey in (1, 2, 3, 4)] and web.gets == before
        assert [source.path for source in sources][1:3] == [f"{web.url}/a.tar/b.png", str(cells[0])]


def test_one_that_cannot_be_had_is_an_error_each_time(web, tmp_path):
    with Shelf(str(tmp_path)) as shelf:
        [source] = shelf.serve([Source(of_path(f"{web.url}/none.png"))])
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                source.location.fetch((10, 0))
        for path in (f"{tmp_path}/a.png", f"file://{tmp_path}/a.png"):
            local = Source(of_path(path))
            assert shelf.serve([local]) == [local] and local.location.fetch((0, 0))


def test_what_broke_off_takes_no_room(media, web, tmp_path, monkeypatch):
    def break_off(self, path):
        Path(path).write_bytes(b"a part of it")
        raise RuntimeError("the connection was lost")  # as aiohttp, whose errors are no OSErrors

    sizes = [(media / name).stat().st_size for name in ("p0.png", "p1.png")]
    with Shelf(str(tmp_path), max(sizes)) as shelf:
        urls = [of_path(f"{web.url}/{name}") for name in ("p0.png", "p1.png")]
        first, second = (source.location for source in shelf.serve(map(Source, urls)))
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(Url, "copy_to", break_off)
            first.fetch(first.stamp())
        assert os.listdir(shelf.folder) == []
        assert second.fetch(second.stamp())


def test_what_a_killed_build_left_is_not_taken(web, tmp_path):
    medium = Kept(of_path(f"{web.url}/p0.png"), str(tmp_path / SHELF))
    (tmp_path / SHELF).mkdir()
    with open(medium.path, "wb") as stream:
        stream.write(b"a part of it")
    with Shelf(str(tmp_path)):
        assert medium.local_path() is None
        assert not medium.fetch(medium.stamp())
        assert medium.read_bytes() == (web.folder / "p0.png").read_bytes()
