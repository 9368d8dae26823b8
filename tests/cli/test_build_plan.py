# SPDX-License-Identifier: Apache-2.0
"""What a build computes without being asked."""

import numpy as np
import pytest

from diffnext.cli.build_args import parse_args
from diffnext.cli.build_plan import is_scored
from diffnext.data import motion
from diffnext.data.location import File
from diffnext.data.records import open_writer, write_identity
from diffnext.data.sources import Listing, Source

SCORED, NOT = Source(File("a.mp4"), flow=2.0), Source(File("b.mp4"))


@pytest.fixture
def scored(tmp_path):
    """Whether videos of a listing get scores, in a build into the folder `c`."""

    def ask(*options, sources=(SCORED, NOT), frames="17,1"):
        words = ["--input", "a", "--output", str(tmp_path / "c"), "--vae", "v"]
        words += ["--resolution", "64", "--num-frames", frames]
        return is_scored(parse_args([*words, *options], ""), Listing(list(sources)))

    return ask


def test_videos_without_a_score_get_one(scored, monkeypatch, capsys):
    monkeypatch.setattr(motion, "has_opencv", lambda: True)
    assert scored() and not scored("--no-motion")
    assert scored(sources=[SCORED])  # others may come later
    assert not scored(sources=[Source(File("a.png"))]) and not scored(frames="1")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(motion, "has_opencv", lambda: False)
    assert not scored() and scored("--motion")
    assert "pip install diffnext[motion], or --no-motion" in capsys.readouterr().out


@pytest.mark.parametrize("rules", [{}, {"flow": "a rule"}])
def test_a_cache_goes_on_as_it_began(scored, tmp_path, rules):
    write_identity(tmp_path / "c", {"rules": rules})
    with open_writer(str(tmp_path / "c"), {"moments": "bytes"}) as writer:
        writer.write({"moments": np.zeros(2, np.float16).tobytes()})
    assert scored() == scored(sources=[SCORED]) == bool(rules)
    assert scored("--motion") and not scored("--no-motion")
