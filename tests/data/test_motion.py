# SPDX-License-Identifier: Apache-2.0
"""Motion scores of a picture that is pushed along by a known distance, at any size and frame rate."""

import builtins

import numpy as np
import PIL.Image
import pytest

from diffnext.data.motion import PAIRS, frame_pairs, has_opencv, motion_score
from tests.data.clips import package_file

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def picture():
    path = package_file("skimage", "data/astronaut.png")
    return PIL.Image.open(path).convert("RGB")


def pushed(picture, *, rate, speed, height=256, width=320, seconds=0.5):
    """A window that moves right by `speed` of its short side a second: frames, times."""
    times = np.arange(round(rate * seconds) + 1) / rate
    frames = []
    for time_s in times:
        left = 40 + time_s * speed * 300
        box = (left, 100, left + 375, 400)  # 300 pixels of the picture high
        frames.append(np.asarray(picture.resize((width, height), PIL.Image.BICUBIC, box)))
    return np.stack(frames), times


@pytest.mark.parametrize("speed", [0.02, 0.125, 0.5])
def test_the_score_is_the_distance_in_480_lines_and_a_twelfth_of_a_second(picture, speed):
    score = motion_score(*pushed(picture, rate=24, speed=speed))
    assert score == pytest.approx(480 * speed / 12, rel=0.05)  # its sides move in from outside


@pytest.mark.parametrize(
    ("rate", "height", "width"), [(12, 256, 320), (60, 256, 320), (24, 96, 120), (24, 600, 750)]
)
def test_size_and_frame_rate_do_not_count(picture, rate, height, width):
    usual = motion_score(*pushed(picture, rate=24, speed=0.25))
    other = motion_score(*pushed(picture, rate=rate, speed=0.25, height=height, width=width))
    assert other == pytest.approx(usual, rel=0.05)


def test_portrait_scores_like_landscape(picture):
    frames, times = pushed(picture, rate=12, speed=0.25)
    turned = motion_score(np.rot90(frames, axes=(1, 2)), times)
    assert turned == pytest.approx(motion_score(frames, times), rel=0.05)


def test_what_stands_still_scores_nothing(picture):
    frames, times = pushed(picture, rate=12, speed=0)
    assert motion_score(frames, times) < 0.01
    assert motion_score(frames[:1], times[:1]) == 0
    assert motion_score(frames, np.zeros(len(frames))) == 0  # one frame, repeated


def test_repeated_frames_do_not_dilute_the_score(picture):
    frames, times = pushed(picture, rate=12, speed=0.25)
    padded = np.concatenate([frames, np.repeat(frames[-1:], 9, axis=0)])
    late = np.concatenate([times, np.repeat(times[-1:], 9)])
    assert motion_score(padded, late) == motion_score(frames, times)


def test_pairs_are_a_twelfth_of_a_second_apart_and_spread():
    assert frame_pairs(np.arange(13) / 48) == [(0, 4), (4, 8), (8, 12)]
    assert frame_pairs(np.arange(4) / 2) == [(0, 1), (1, 2), (2, 3)]
    assert frame_pairs([0, 0.01, 0.02]) == [(0, 2)]  # the whole clip is shorter
    assert frame_pairs([0.0]) == []
    pairs = frame_pairs(np.arange(161) / 12)
    assert len(pairs) == PAIRS
    assert (pairs[0][0], pairs[-1][0]) == (0, 150)


def test_without_opencv_the_message_says_what_to_install(monkeypatch):
    """Be it installed or not: as often as not it is there, and a library of the system is not."""
    real = builtins.__import__

    def without(name, *args):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    assert not has_opencv()
    with pytest.raises(ValueError, match=r"\(libGL.*\): pip install diffnext\[motion\]"):
        motion_score(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
