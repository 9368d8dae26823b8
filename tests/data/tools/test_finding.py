# SPDX-License-Identifier: Apache-2.0
"""Media are found again by what the journal calls them, wherever a build takes them from."""

import pytest

from diffnext.data.journal import Entry
from diffnext.data.sources import scan
from diffnext.data.tools import finding
from diffnext.data.views import View
from tests.data.packed import SAMPLES, media_table, png, write_bytes, write_parquet, write_tar
from tests.data.remote.web import serving


def entry(path, frames=1):
    return Entry("", path, 0, 0, "", View(8, 8, tuple(range(frames))))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "m").mkdir()
    write_bytes(tmp_path / "m" / "a.png", png(1))
    write_tar(tmp_path / "m" / "s.tar", SAMPLES)
    write_parquet(tmp_path / "m" / "t.parquet", media_table([png(3), png(4)]))
    return tmp_path / "m"


def test_what_a_scan_lists_is_found(folder):
    pytest.importorskip("aiohttp")
    finding._members.cache_clear()
    with serving(folder) as web:
        names = ("a.png", "s.tar", "t.parquet")
        listed = [*scan(str(folder)).sources]
        for name in names:
            listed += scan(f"{web.url}/{name}").sources
        assert len(listed) == 10
        for source in listed:
            found = finding.locate(entry(source.path))
            assert found == source.location
            assert found.read_bytes() == source.location.read_bytes()
        assert finding._members.cache_info().misses == 2  # of four members in two tars
        with pytest.raises(FileNotFoundError):
            finding.locate(entry(f"{web.url}/none.tar/none.png")).stamp()


def test_what_is_not_there(folder, monkeypatch):
    for path in ("none.png", "s.tar/none.png", "none.tar/a.png", "none.parquet/image[0]"):
        with pytest.raises(FileNotFoundError, match=r"is not there$"):
            finding.locate(entry(str(folder / path)))
    (folder / "o.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match=r"o\.tar cannot be read as a tar"):
        finding.locate(entry(str(folder / "o.tar/a.png")))
    monkeypatch.chdir(folder)
    with pytest.raises(FileNotFoundError, match=r"b\.png is not there in .*; run this where the"):
        finding.locate(entry("b.png"))
