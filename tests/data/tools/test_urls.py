# SPDX-License-Identifier: Apache-2.0
"""Caches behind URLs: what the tools say of them and make of them is that of the folder."""

import json

import pytest

from diffnext.cli import main
from diffnext.data.journal import JOURNAL
from diffnext.data.remote import store
from diffnext.data.tools.verify import check
from tests.data.remote.web import serving
from tests.data.tools.small import copy, equal, flip_byte, records

pytest.importorskip("aiohttp")


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Copies of this test alone, and no pauses."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(store, "PAUSE_S", 0.01)


@pytest.fixture
def web(cache):
    with serving(cache) as web:
        yield web


def test_info_verify_and_diff(cache, web, capsys):
    said = []
    for path in (cache, web.url):
        assert main(["cache", "info", str(path), "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    ours, theirs = said
    assert (theirs.pop("path"), ours.pop("path")) == (web.url, str(cache))
    assert 0 < theirs.pop("disk_bytes") <= ours.pop("disk_bytes")  # what training has no need of
    assert ours == theirs and ours["journal"]
    assert main(["cache", "verify", web.url]) == 0
    assert f"{web.url}: 7 records, 0 damaged, 0 other problems" in capsys.readouterr().out
    assert main(["cache", "diff", str(cache), web.url]) == 0


def test_damage_is_named_by_the_url_and_a_lost_line_is_an_error(cache, tmp_path, capsys):
    broken = copy(cache, tmp_path / "broken")
    flip_byte(broken / "00000.data", (broken / "00000.data").stat().st_size - 80)
    with serving(broken) as web:
        [problem] = check(web.url).problems
        assert problem.record == 6
        assert problem.what.startswith(f"{web.url}/00000.data record 6 ")
        assert "p6.png" in problem.what
    with serving(cache) as web:
        web.faults["00000.data"] = ["500"] * 100
        assert main(["cache", "verify", web.url]) == 2
        assert f"{web.url}/00000.data cannot be read: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["filter", "URL", "--where", "record>=0"], "out"),
        (["merge", "URL", "PATH"], "out"),
        (["export", "URL", "--to", "webdataset"], "out"),
        (["split", "URL", "--shares", "0.5,0.5"], "a b"),
    ],
)
def test_what_is_made_of_one(cache, web, tmp_path, words, made):
    places = {"URL": web.url, "PATH": str(cache)}
    outputs = [str(tmp_path / name) for name in made.split()]
    words = [places.get(word, word) for word in words]
    assert main(["cache", *words, "--output", *outputs]) == 0
    if words[0] in ("filter", "merge"):
        assert equal(records(outputs[0]), records(cache))
        assert (tmp_path / "out" / JOURNAL).read_text() == (cache / JOURNAL).read_text()
    if words[0] == "split":
        assert sum(len(records(output)) for output in outputs) == 7
    identity = json.loads((tmp_path / made.split()[0] / "diffnext.json").read_text())
    assert identity["lineage"]["of"][0] == {"path": web.url, "records": 7}


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "http://h/c", "--repair", "--drop"],
        ["import", "http://h/c", "--from", "mar", "--output", "o"],
        ["filter", "PATH", "--where", "record=0", "--output", "s3://bucket/c"],
    ],
)
def test_what_wants_a_folder_says_so(cache, tmp_path, monkeypatch, words, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["cache", *(str(cache) if word == "PATH" else word for word in words)]) == 2
    shown = capsys.readouterr().err
    assert "URL" in shown and "copy" in shown
    assert list(tmp_path.iterdir()) == []
