# SPDX-License-Identifier: Apache-2.0
"""Inputs behind URLs: everything that a local path may be."""

import http.server
import threading

import pytest

from diffnext.data import images, media, urls
from diffnext.data.location import File, TarMember, of_path
from diffnext.data.sources import scan
from tests.data.clips import write_clip
from tests.data.packed import SAMPLES, greys, media_table, png, reasons, write_parquet, write_tar
from tests.data.remote.web import serving


@pytest.fixture
def memory():
    """A folder of fsspec's file system in memory."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/inputs", recursive=True)


def test_everything_by_url(memory, tmp_path):
    system, base = memory, "memory://inputs"
    system.pipe("/inputs/f/a.png", png(1))
    system.pipe("/inputs/f/a.txt", b"one")
    system.pipe("/inputs/f/.hidden/b.png", png(9))
    system.pipe("/inputs/f/s.tar", write_tar(tmp_path / "s.tar", SAMPLES).read_bytes())
    table = media_table([png(3)], prompt=["three"])
    system.pipe("/inputs/f/t.parquet", write_parquet(tmp_path / "t.parquet", table).read_bytes())
    system.pipe(
        "/inputs/l.csv", b"path,caption\nf/a.png,x\n/abs.png,y\nmemory://inputs/f/a.png,z\n"
    )
    system.pipe("/inputs/g/dataset_dict.json", b'{"splits": ["a", "b"]}')
    with pytest.raises(ValueError, match="give one of memory://inputs/g/a, memory://inputs/g/b"):
        scan(f"{base}/g")
    listing = scan(f"{base}/f")
    assert reasons(listing) == []
    assert greys(listing) == [1, 10, 20, 3]
    assert [source.caption for source in listing.sources] == ["one", "one", "two", "three"]
    assert [source.caption for source in scan(f"{base}/f/s.tar").sources] == ["one", "two"]
    rows = scan(f"{base}/l.csv").sources
    assert [row.path for row in rows][::2] == ["memory://inputs/f/a.png"] * 2
    assert greys(scan(f"{base}/f/a.png")) == [1]


def test_the_stamp_of_a_url_changes_with_its_content(memory):
    memory.pipe("/inputs/a.png", png(1))
    location = of_path("memory://inputs/a.png")
    assert (location.kind, location.local_path()) == ("image", None)
    before = location.stamp()
    assert before[0] == len(png(1)) and before[1] > 0 and location.stamp() == before
    memory.pipe("/inputs/a.png", png(2))
    assert location.stamp() != before
    member = TarMember("memory://inputs/a.png", "head", 0, 4)
    assert member.read_bytes() == png(1)[:4]
    with pytest.raises(ValueError, match="4 bytes in the tar, 9 are declared"):
        TarMember("memory://inputs/a.png", "x", len(png(2)) - 4, 9).read_bytes()


def test_urls_that_cannot_be_reached():
    pytest.importorskip("fsspec")
    with pytest.raises(ValueError, match="Protocol not known"):
        of_path("nowhere://a.png").read_bytes()
    with pytest.raises(OSError):
        of_path("memory://inputs/none.png").stamp()
    assert of_path("https://host/a.webm?size=3").kind == "video"
    assert isinstance(of_path("C:\\a.png"), File)


def test_what_a_server_does_not_give_is_named(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "a.jsonl").write_text("{}")
    with serving(tmp_path) as web:
        web.forbidden.add("a.jsonl")
        for name in ("b.jsonl", "c.json"):
            with pytest.raises(ValueError, match=rf"^--input {web.url}/{name}: its server has no"):
                scan(f"{web.url}/{name}")
        with pytest.raises(
            ValueError, match=rf"^--input {web.url}/a.jsonl: ClientResponseError: 403"
        ):
            scan(f"{web.url}/a.jsonl")


def test_a_time_limit_of_the_users_own_is_kept(tmp_path):
    aiohttp = pytest.importorskip("aiohttp")
    limit = {"timeout": aiohttp.ClientTimeout(total=5)}
    (tmp_path / "a.txt").write_text("words")
    with serving(tmp_path) as web:
        system, inner = urls.file_system(f"{web.url}/a.txt", client_kwargs=limit)
        assert system.cat_file(inner) == b"words"


def test_large_members_of_a_remote_tar_are_passed_over(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "m").mkdir()
    path = write_tar(tmp_path / "m" / "a.tar", [(f"{n}.mp4", bytes(4 << 20)) for n in range(3)])
    with serving(tmp_path / "m") as web:
        assert len(scan(f"{web.url}/a.tar").sources) == 3
        assert web.sent["a.tar"] < path.stat().st_size / 2


def test_a_folder_with_a_colon_in_its_name_is_no_protocol(tmp_path, monkeypatch):
    (tmp_path / "cache:1").mkdir()
    write_clip(tmp_path / "cache:1" / "a.mp4", 3)
    monkeypatch.chdir(tmp_path)
    [source] = scan("cache:1").sources
    assert source.path == "cache:1/a.mp4"
    assert media.probe(source.location).num_frames == 3


class Server(http.server.BaseHTTPRequestHandler):
    """Gives one file, whole, whatever part of it is asked for."""

    data = b""
    says_so = False

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.data)

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.send_header("Last-Modified", "Fri, 01 Jan 2027 00:00:00 GMT")
        if self.says_so:
            self.send_header("Accept-Ranges", "none")
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.mark.parametrize("says_so", [False, True])
def test_a_server_that_knows_no_ranges(tmp_path, says_so):
    pytest.importorskip("aiohttp")
    data = write_tar(tmp_path / "a.tar", SAMPLES).read_bytes()
    handler = type("One", (Server,), {"data": data, "says_so": says_so})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        listing = scan(f"http://127.0.0.1:{server.server_port}/a.tar")
        assert (reasons(listing), greys(listing)) == ([], [10, 20])
        size, version = listing.sources[0].location.stamp()
        assert size == len(png(10)) and version > 0
        handler.data = png(3)
        assert images.size(of_path(f"http://127.0.0.1:{server.server_port}/a.png")) == (4, 4)
    finally:
        server.shutdown()
        server.server_close()
