# SPDX-License-Identifier: Apache-2.0
"""Views of media: which are chosen by shape, number and time, and that one decode serves them all."""

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffnext.data import media, video
from diffnext.data.media import Probe
from diffnext.data.view_rules import ViewRules, aspect_sizes, nearest_size, resample, windows
from diffnext.data.views import View
from tests.data.clips import numbers, write_clip

SQUARE = (((64, 64),),)
RATIOS = ("1:1", "4:5", "5:4", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "1:2", "2:1")


def clip(num_frames, *, height=96, width=128, fps=30.0):
    """A probe of a clip of constant frame rate that is nowhere."""
    info = SimpleNamespace(times_s=np.arange(num_frames) / fps)
    return Probe("clip.mp4", "video", height, width, num_frames, info)


def picture(height, width):
    return Probe("picture.png", "image", height, width, 1)


def frames(rules, medium):
    return [view.frame_ids for view in rules.choose(medium).views]


# --------------------------------------------------------------------------------- the state of a view


views = st.builds(
    View,
    st.integers(8, 64),
    st.integers(8, 64),
    st.lists(st.integers(0, 9), min_size=1, max_size=6).map(sorted).map(tuple),
    st.booleans(),
)


@given(views)
def test_a_view_comes_back_from_its_state(view):
    assert View.from_state(view.state()) == view


def test_the_state_of_a_plain_view_is_what_version_1_called_a_cut():
    cut = {"height": 48, "width": 64, "num_frames": 33, "frame_stride": 2}
    assert View(48, 64, tuple(range(0, 65, 2))).state() == cut
    assert View(48, 64).state() == {**cut, "num_frames": 1, "frame_stride": 1}


# ------------------------------------------------------------------------------------ sizes by shape


def test_sizes_are_those_of_diffusers():
    """Its newer versions make such a list, for squares and multiples of 16."""
    training_utils = pytest.importorskip("diffusers.training_utils")
    make = getattr(training_utils, "generate_aspect_ratio_buckets", None)
    if make is None:
        pytest.skip("this version of diffusers makes no buckets")
    for side in (256, 512, 1024):
        assert list(aspect_sizes(side * side, RATIOS, 16)) == make(side)


@given(st.integers(50, 4000), st.integers(50, 4000))
def test_the_nearest_size_loses_least(height, width):
    """The share of the pixels that the crop keeps is largest, up to the rounding of the sizes."""
    sizes = aspect_sizes(512 * 512, RATIOS, 16)

    def kept(size):
        scale = max(size[0] / height, size[1] / width)
        return size[0] * size[1] / (height * width * scale * scale)

    assert kept(nearest_size(height, width, sizes)) == pytest.approx(max(map(kept, sizes)))


def test_portrait_and_landscape_are_treated_alike():
    sizes = aspect_sizes(512 * 512, RATIOS, 16)
    rules = ViewRules((sizes,))
    [wide], [high] = (rules.choose(picture(*s)).views for s in ((1080, 1920), (1920, 1080)))
    assert (wide.height, wide.width) == (high.width, high.height) == (384, 688)


def test_each_resolution_gives_a_view_and_small_media_are_kept_or_dropped():
    sizes = (((64, 64),), ((128, 128),))
    medium = picture(100, 200)
    assert [v.height for v in ViewRules(sizes).choose(medium).views] == [64, 128]
    chosen = ViewRules(sizes, upscale=False).choose(medium)
    assert [view.height for view in chosen.views] == [64]
    assert chosen.dropped == ("smaller than 128x128 px",)


def test_a_line_fails_only_where_the_crop_would_leave_nothing():
    chosen = ViewRules((((64, 64),), ((64, 640),))).choose(picture(10, 1000))
    assert [view.width for view in chosen.views] == [640]
    assert chosen.failed[0].startswith("10x1000 px would be resized to 64x6400")


# ----------------------------------------------------------------------------------- frames by number


def test_a_clip_gets_the_longest_length_that_it_fills():
    rules = ViewRules(SQUARE, num_frames=(1, 17, 33), frame_stride=2)
    found = {count: frames(rules, clip(count)) for count in (65, 64, 33)}
    assert found[65] == [tuple(range(0, 65, 2))]
    assert found[64] == found[33] == [tuple(range(0, 33, 2))]
    assert rules.choose(clip(32)).dropped == ("fewer than 33 frames",)
    assert frames(rules, picture(64, 64)) == [(0,)]
    assert rules.choose(picture(64, 64)).views[0].bucket == (1, 64, 64)


def test_what_is_of_the_other_kind_is_dropped():
    assert ViewRules(SQUARE).choose(clip(9)).dropped == ("a video, and --num-frames is 1",)
    [reason] = ViewRules(SQUARE, num_frames=(9, 17)).choose(picture(64, 64)).dropped
    assert reason == "a picture, and --num-frames is 9, 17"


def test_short_clips_are_padded_with_their_last_frame():
    rules = ViewRules(SQUARE, num_frames=(5, 9), frame_stride=2, pad=True)
    assert frames(rules, clip(4)) == [(0, 2, 2, 2, 2)]
    assert frames(rules, clip(9)) == [(0, 2, 4, 6, 8)]


@given(st.integers(1, 300), st.integers(1, 40), st.none() | st.integers(1, 9))
def test_windows_fill_the_clip_and_do_not_overlap(count, length, most):
    if count < length:
        return
    found = windows(range(count), length, most)
    assert len(found) == min(count // length, most or count)
    taken = [number for window in found for number in window]
    assert len(taken) == len(set(taken)) == len(found) * length
    assert found[0][0] == 0 and all(w == tuple(range(w[0], w[0] + length)) for w in found)
    if len(found) > 1:
        assert found[-1][-1] == count - 1
        gaps = np.diff([window[0] for window in found])
        assert gaps.max() - gaps.min() <= 1


def test_flips_and_windows_multiply():
    rules = ViewRules(SQUARE, num_frames=(9,), windows=None, flip=True)
    chosen = rules.choose(clip(20)).views
    assert [(view.frame_ids[0], view.flip) for view in chosen] == [
        (0, False),
        (0, True),
        (11, False),
        (11, True),
    ]


# ------------------------------------------------------------------------------------- frames by time


@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=60),
    st.sampled_from([5.0, 12.0, 23.976, 24.0, 30.0, 60.0]),
)
def test_resampling_takes_the_nearest_frame_in_time(steps_ms, fps):
    """Against the definition, frame by frame."""
    times = np.concatenate([[0], np.cumsum(steps_ms)]) / 1000
    ids = resample(times, fps)
    end = times[-1] + np.median(np.diff(times))
    assert (len(ids) - 1) / fps < end <= len(ids) / fps + 1e-6
    for tick, number in enumerate(ids):
        distance = np.abs(times - tick / fps)
        assert distance[number] <= distance.min() + 1e-6
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("count", "fps", "wanted", "expected"),
    [
        (60, 30.0, 30.0, list(range(60))),
        (60, 30000 / 1001, 30000 / 1001, list(range(60))),
        (60, 30.0, 15.0, list(range(0, 60, 2))),
        (6, 30.0, 60.0, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
        (1, 30.0, 24.0, [0]),
    ],
)
def test_resampling_of_constant_rates(count, fps, wanted, expected):
    assert resample(np.arange(count) / fps, wanted) == expected


def test_a_rate_decides_whether_a_clip_is_long_enough():
    rules = ViewRules(SQUARE, num_frames=(9,), fps=10.0)
    assert frames(rules, clip(25)) == [tuple(range(0, 25, 3))]
    assert rules.choose(clip(24)).dropped == ("fewer than 9 frames at 10 a second",)
    slow = ViewRules(SQUARE, num_frames=(5,), fps=10.0, frame_stride=2)
    assert frames(slow, clip(25)) == [(0, 6, 12, 18, 24)]


def test_a_clip_of_variable_rate_gives_the_frames_of_each_moment(tmp_path):
    """Ten frames 20 ms apart, then ten of 100 ms: at 10 a second, by the numbers that they show."""
    times = [*range(0, 200, 20), *range(200, 1200, 100)]
    medium = media.probe(write_clip(tmp_path / "vfr.mkv", 20, times=times))
    rules = ViewRules((((48, 128),),), num_frames=(9,), fps=10.0)
    [view] = rules.choose(medium).views
    assert view.frame_ids == (0, 5, *range(10, 17))
    assert numbers(media.read(medium, [view])[0]) == [0, 5, *range(10, 17)]


# ---------------------------------------------------------------------------------- one decode for all


def test_views_of_a_clip_are_cut_from_one_decode(tmp_path, monkeypatch):
    medium = media.probe(write_clip(tmp_path / "clip.mp4", 30))
    asked = [
        View(48, 128, (0, 2, 4)),
        View(48, 128, (4, 4, 7, 9), flip=True),
        View(24, 64, (20, 21)),
    ]
    alone = [media.read(medium, [view])[0] for view in asked]
    decodes, read_sizes = [], video.read_sizes

    def counted(info, wanted):
        decodes.append(wanted)
        return read_sizes(info, wanted)

    monkeypatch.setattr(video, "read_sizes", counted)
    together = media.read(medium, asked)
    [wanted] = decodes
    assert sorted(wanted.values()) == [[0, 2, 4, 7, 9], [20, 21]]
    for view, one, other in zip(asked, alone, together, strict=True):
        assert one.shape == (view.num_frames, view.height, view.width, 3)
        np.testing.assert_array_equal(one, other)
    assert numbers(together[0]) == [0, 2, 4]
    plain = media.read(medium, [View(48, 128, (4, 4, 7, 9))])[0]
    np.testing.assert_array_equal(together[1], plain[:, :, ::-1])
    assert numbers(plain) == [4, 4, 7, 9]


def test_views_of_a_picture_are_resized_from_the_same_pixels(tmp_path):
    path = str(tmp_path / "a.png")
    pixels = np.random.default_rng(0).integers(0, 255, (90, 121, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    medium = media.probe(path)
    small, large, mirrored = media.read(
        medium, [View(16, 24), View(80, 80), View(80, 80, flip=True)]
    )
    np.testing.assert_array_equal(small, media.read(medium, [View(16, 24)])[0])
    np.testing.assert_array_equal(mirrored, large[:, :, ::-1])
    assert not np.array_equal(mirrored, large)
