# SPDX-License-Identifier: Apache-2.0
"""All kinds of bad and odd media in one build: what can be taken is, the rest is written down, once."""

import os
from pathlib import Path

import numpy as np
import pytest

from diffnext.data.cache import build
from diffnext.data.latents import Latents
from diffnext.data.ledger import load_failures
from diffnext.data.records import open_reader
from diffnext.data.view_rules import ViewRules
from tests.data.cache_builds import plan_for
from tests.data.clips import HEIGHT, WIDTH
from tests.data.test_odd_media import PICTURES, VIDEOS

FRAMES = 20
OPTIONS = {
    "rules": ViewRules(sizes=(((HEIGHT, WIDTH),),), num_frames=(FRAMES, 1)),
    "latents": Latents(channels=4, time_stride=FRAMES - 1, space_stride=8),
}


def encode(frames):
    """Means of 8 x 8 pixels of the first frame and the last."""
    batch, count, height, width, _ = frames.shape
    blocks = frames.reshape(batch, count, height // 8, 8, width // 8, 8, 3).mean(axis=(3, 5))
    means = np.tile(np.moveaxis(blocks, -1, 1)[:, :, :: FRAMES - 1], (1, 3, 1, 1, 1))[:, :8]
    means[:, 0, 0, 0, 0] += 1  # many kinds are of one colour, and constant moments are a failure
    return means.astype(np.float16)


def write_all(folder):
    """Each kind in a folder of its own, its name as caption. Returns names of those that are taken."""
    for number, (name, (make, _)) in enumerate([*PICTURES.items(), *VIDEOS.items()]):
        place = folder / f"{number:02d}"
        place.mkdir(parents=True)
        path = Path(make(place))
        for other in set(place.iterdir()) - {path}:
            other.unlink()  # what it was made of
        path.with_suffix(".txt").write_text(f"{number} {name}")
    pictures = [not isinstance(truth, str) for _, truth in PICTURES.values()]
    videos = [not isinstance(truth, str) and len(truth) >= FRAMES for _, truth in VIDEOS.values()]
    names = [*PICTURES, *VIDEOS]
    return {f"{n} {names[n]}" for n, is_taken in enumerate([*pictures, *videos]) if is_taken}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken EXIF
def test_all_kinds_in_one_build(tmp_path):
    taken, output = write_all(tmp_path / "media"), tmp_path / "cache"
    report = build(plan_for(tmp_path / "media", output, **OPTIONS), encode, workers=0)
    reader = open_reader(output)
    assert {reader[number]["caption"] for number in range(len(reader))} == taken
    assert report.written == len(taken) >= 20
    left_out = load_failures(output)
    assert {failure.stage for failure in left_out} == {"scan", "probe", "decode", "dropped"}
    files = {os.path.dirname(failure.file) for failure in left_out}
    unlisted = {"folder named png", "folder named mp4"}  # in which the scan sees no media
    assert len(taken) + len(files) + len(unlisted) == len(PICTURES) + len(VIDEOS) >= 40
    again = plan_for(tmp_path / "media", output, **OPTIONS)
    assert again.tasks == [] and again.present == len(taken)
