# SPDX-License-Identifier: Apache-2.0
"""Whether a build begins that the disk may be too small for."""

import json
from pathlib import Path

import pytest

from diffnext.cli import build_cache
from diffnext.data.cache_plan import Plan
from diffnext.data.shelf import SHELF
from tests.data.packed import png
from tests.data.remote.web import serving

VAE = Path(__file__).parents[2] / "assets" / "nova_shapes"


@pytest.fixture
def command(tmp_path):
    """A build of one picture behind a server."""
    pytest.importorskip("aiohttp")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.png").write_bytes(png(7))
    row = {"path": "a.png", "caption": "Grey."}
    (tmp_path / "m" / "m.jsonl").write_text(json.dumps(row))
    with serving(tmp_path / "m") as web:
        yield [
            *("--input", f"{web.url}/m.jsonl", "--output", str(tmp_path / "c"), "--vae", str(VAE)),
            *("--resolution", "64", "--device", "cpu", "--workers", "0"),
        ]


def test_copies_of_media_give_way_to_records(command, monkeypatch, capsys):
    """Together they find no room."""
    looks = []

    def free(plan):
        looks.append(Path(plan.output, SHELF).exists())
        return 0 if looks[-1] else 1 << 30

    monkeypatch.setattr(Plan, "free_bytes", property(free))
    assert build_cache.main(command) == 0
    assert looks[0] and "1 written, 1 records in all" in capsys.readouterr().out


def test_a_plan_without_room_is_refused(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Plan, "free_bytes", 0)
    assert build_cache.main(command) == 2
    assert "c: the disk is too small for this plan; make room, or" in capsys.readouterr().err
    assert not (tmp_path / "c" / SHELF).exists()
