# SPDX-License-Identifier: Apache-2.0
"""Servers that refuse: what is tried again, what is said, and what the next build does."""

import errno
import json

import numpy as np
import pytest

from diffnext.data import fetching, media
from diffnext.data.cache import build
from diffnext.data.entries import Entry
from diffnext.data.fetching import FetchError, Patience
from diffnext.data.ledger import LEDGER
from diffnext.data.location import TarMember, of_path
from diffnext.data.shelf import Shelf
from diffnext.data.sources import Listing, Source, scan
from diffnext.data.tools import finding
from diffnext.data.views import View
from diffnext.data.worker import WorkError
from tests.data.cache_builds import encode, plan_of, records, write_photos
from tests.data.clips import HEIGHT, WIDTH, numbers, write_clip
from tests.data.packed import media_table, png, write_parquet, write_tar
from tests.data.remote.web import serving

pytest.importorskip("aiohttp")
FOR_EVER = ["500"] * 1000


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE_S", 0)
    monkeypatch.setattr(fetching.patiently, "_lost", 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("fetching") / "photos")


@pytest.fixture
def web(photos):
    with serving(photos) as web:
        yield web


def listing_of(web, shelf=None):
    sources = [
        Source(of_path(f"{web.url}/{path.name}"), path.with_suffix(".txt").read_text())
        for path in sorted(web.folder.glob("*.png"))
    ]
    return Listing(sources if shelf is None else shelf.serve(sources))


def ledger(output):
    lines = (output / LEDGER).read_text().splitlines()
    return [
        (entry["stage"], entry["file"][-6:], entry["attempt"]) for entry in map(json.loads, lines)
    ]


def test_a_server_that_refuses_at_first_costs_nothing(web, tmp_path):
    for name in ("p0.png", "p4.png"):
        web.faults[name] = ["500", "drop", "500"]
    report = build(plan_of(listing_of(web), tmp_path / "c"), encode, workers=0)
    assert (report.written, report.failures) == (7, [])


@pytest.mark.parametrize("when", ["plan", "copy", "build"])
def test_what_could_not_be_had_is_tried_again_by_the_next_build(web, tmp_path, when):
    """Refused while it is planned, with a place for a copy or without, or when it is to be decoded."""
    output = tmp_path / "c"
    output.mkdir()
    with Shelf(str(output)) as shelf:
        if when != "build":
            web.faults["p3.png"] = [*FOR_EVER]
        listing = listing_of(web, shelf if when == "copy" else None)
        plan = plan_of(listing, output, remember=True)
        if when == "build":
            web.forbidden.add("p3.png")
        report = build(plan, encode, workers=0)
    assert report.written == 6
    assert ledger(output) == [("fetch", "p3.png", "")]
    attempts = "ClientResponseError: 403" if when == "build" else "4 attempts failed, the last with"
    assert f"p3.png: {attempts}" in report.failures[0].reason
    web.faults.clear()
    web.forbidden.clear()
    web.gets.clear()
    plan = plan_of(listing_of(web), output, remember=True)
    assert build(plan, encode, workers=0).written == 1
    assert set(+web.gets) == {"p3.png"} and len(records(output)) == 7
    assert ledger(output) == []


@pytest.mark.parametrize(("room", "stage"), [(0, "fetch"), (1 << 20, "decode")])
def test_what_takes_too_long_to_read_over_a_network_is_tried_again(
    web, tmp_path, monkeypatch, room, stage
):
    """Whether it was the server or the decoder cannot be told; where there is a copy, it can."""

    def too_slow(orders, **options):
        for task, _ in orders:
            yield task, WorkError("timed out after 120 s", "TimeoutError")

    monkeypatch.setattr("diffnext.data.cache.decode_ahead", too_slow)
    (tmp_path / "c").mkdir()
    with Shelf(str(tmp_path / "c"), room) as shelf:
        build(plan_of(listing_of(web, shelf), tmp_path / "c"), encode, workers=0)
    found = ledger(tmp_path / "c")
    assert {(entry[0], bool(entry[2])) for entry in found} == {(stage, stage == "decode")}


def test_a_probe_that_takes_too_long_over_a_network_is_tried_again(web, tmp_path, monkeypatch):
    def too_slow(order):
        raise WorkError("timed out after 120 s", "TimeoutError")

    monkeypatch.setattr("diffnext.data.scouting.examine", too_slow)
    (tmp_path / "c").mkdir()
    for room, stage in ((0, "fetch"), (1 << 20, "probe")):
        with Shelf(str(tmp_path / "c"), room) as shelf:
            failures = plan_of(listing_of(web, shelf), tmp_path / "c").failures
        assert {(failure.stage, bool(failure.attempt)) for failure in failures} == {
            (stage, stage == "probe")
        }


def test_parts_of_a_medium_are_asked_for_again(tmp_path):
    """Through FFmpeg and Pillow, which read what they need."""
    write_clip(tmp_path / "a.mp4", 8)
    (tmp_path / "a.png").write_bytes(png(7))
    member = write_tar(tmp_path / "a.tar", [("b.png", png(9))]).read_bytes().index(png(9))
    with serving(tmp_path) as web:
        for name in ("a.mp4", "a.png", "a.tar"):
            web.faults[name] = ["500", "drop"]
        web.faults["a.tar"].append("short")
        clip, picture = (media.probe(f"{web.url}/{name}") for name in ("a.mp4", "a.png"))
        tar = f"{web.url}/a.tar"
        assert TarMember(tar, "b.png", member, len(png(9))).read_bytes() == png(9)
        web.faults["a.tar"] = ["short"] * 1000
        with pytest.raises(FetchError, match=r"a\.tar: 4 attempts .* bytes came instead of"):
            TarMember(tar, "b.png", member, len(png(9))).read_bytes()
        web.faults.clear()
        with pytest.raises(ValueError, match=r"b\.png: .* bytes in the tar, 99999 are"):
            TarMember(tar, "b.png", member, 99_999).read_bytes()  # the tar is what is short
        web.faults["a.mp4"] = ["drop", "500"]
        [frames] = media.read(clip, [View(HEIGHT, WIDTH, tuple(range(8)))])
        assert numbers(frames) == [*range(8)]
        [pixels] = media.read(picture, [View(4, 4)])
        assert np.all(pixels == 7)
        for name in ("a.mp4", "a.png"):
            web.faults[name] = [*FOR_EVER]
            with pytest.raises(FetchError, match=f"{name}: 4 attempts failed"):
                media.probe(f"{web.url}/{name}")


@pytest.mark.parametrize("name", ["t.parquet", "a.tar", "m.jsonl", "m.csv"])
def test_lists_are_asked_for_again(tmp_path, name):
    """And are named in a line where that is in vain, be it for a build or to find a medium again."""
    write_parquet(tmp_path / "t.parquet", media_table([png(3), png(4)]))
    write_tar(tmp_path / "a.tar", [("b.png", png(9)), ("c.png", png(8))])
    lines = [json.dumps({"path": f"{n}.png", "caption": "one"}) for n in range(2)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    (tmp_path / "m.csv").write_text("path,caption\na.png,one\nb.png,one\n")
    with serving(tmp_path) as web:
        web.faults[name] = ["500", "drop"]
        assert len(scan(f"{web.url}/{name}").sources) == 2
    with serving(tmp_path) as web:
        web.faults[name] = [*FOR_EVER]
        reason = f"{web.url}/{name}: 4 attempts failed, the last with ClientResponseError: 500"
        if name == "a.tar":  # there may be others
            assert reason in scan(f"{web.url}/{name}").failures[0].reason
            with pytest.raises(FetchError, match=reason):
                finding.locate(Entry("", f"{web.url}/a.tar/b.png", 0, 0, "", View(4, 4)))
        else:
            with pytest.raises(ValueError, match=f"^--input {reason}"):
                scan(f"{web.url}/{name}")


def of_s3(status):
    """What s3fs raises where the server has no such object."""
    error = FileNotFoundError("no such key")
    error.__cause__ = RuntimeError()
    error.__cause__.response = {"ResponseMetadata": {"HTTPStatusCode": status}}
    return error


def in_words():
    """An error whose status is in words."""
    error = RuntimeError("gone")
    error.status = "410 Gone"
    return error


def fails(error, calls):
    def call():
        calls.append(error)
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "attempts", "kind"),
    [
        (ConnectionResetError("reset"), 4, FetchError),
        (RuntimeError("as of a library"), 4, FetchError),
        (in_words(), 4, FetchError),
        (PermissionError("who are you"), 1, FetchError),
        (FileNotFoundError("nothing there"), 1, FileNotFoundError),
        (of_s3(404), 1, FileNotFoundError),
        (of_s3(503), 4, FetchError),
        (ValueError("no such bytes"), 1, ValueError),
        (OSError(errno.ENOSPC, "full"), 1, OSError),
    ],
)
def test_what_is_worth_another_attempt(error, attempts, kind):
    calls = []
    with pytest.raises(kind) as caught:
        Patience()("s3://a", fails(error, calls))
    assert len(calls) == attempts and type(caught.value) is kind


def test_a_server_that_refuses_media_can_still_be_waited_for():
    patience, calls = Patience(), []
    for _ in range(fetching.LOST + 1):
        with pytest.raises(FetchError):
            patience("s3://a", fails(PermissionError("not yours"), []))
    with pytest.raises(FetchError):
        patience("s3://a", fails(TimeoutError(), calls))
    assert len(calls) == fetching.ATTEMPTS


def test_a_server_that_is_down_is_not_waited_for_at_each_medium():
    patience, calls = Patience(), []
    for _ in range(fetching.LOST + 5):
        with pytest.raises(FetchError):
            patience("s3://a", fails(TimeoutError(), calls))
    assert len(calls) == fetching.LOST * fetching.ATTEMPTS + 5
    assert patience("s3://a", lambda: 7) == 7
    with pytest.raises(FetchError):
        patience("s3://a", fails(TimeoutError(), calls := []))
    assert len(calls) == fetching.ATTEMPTS
