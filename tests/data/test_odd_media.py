# SPDX-License-Identifier: Apache-2.0
"""Bad and odd media, one line each: taken with these pixels, or refused with these words.

More of them stand in test_images.py (modes, EXIF), test_video.py (containers, edit lists, damage) and
test_sources.py (captions, labels, folders).
"""

import builtins
import os
import re
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from diffnext.data import images, media
from diffnext.data.sources import scan
from diffnext.data.views import View
from tests.data.clips import HEIGHT, WIDTH, cut_start, numbered, numbers, write_clip

RED, BLUE = (255, 0, 0), (0, 0, 255)
GREY = PIL.Image.new("RGB", (24, 16), (10, 20, 30))


def saved(image=GREY, name="a.png", **options):
    """Make a picture of an image."""

    def make(folder):
        image.save(folder / name, **options)
        return folder / name

    return make


def animated(name, **options):
    """Make a red picture that turns blue."""
    frames = [PIL.Image.new("RGB", (24, 16), colour) for colour in (RED, BLUE)]
    return saved(frames[0], name, save_all=True, append_images=frames[1:], **options)


def changed(make, change, name=None):
    """Make a file and change its bytes, by choice under another name."""

    def changed_one(folder):
        path = Path(make(folder))
        target = folder / (name or path.name)
        target.write_bytes(change(path.read_bytes()))
        return target

    return changed_one


def part(share):
    return lambda data: data[: int(len(data) * share)]


def noise(name, **options):
    return saved(PIL.Image.effect_noise((64, 64), 50).convert("RGB"), name, **options)


def png(width, height, depth, colour, rows):
    """A PNG file, written by the book: size, bits, type of colour, filtered rows."""

    def chunk(name, data):
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return lambda folder: write(folder / "made.png", b"\x89PNG\r\n\x1a\n" + chunks)


def write(path, data):
    path.write_bytes(data)
    return path


def text(name):
    return lambda folder: write(folder / name, b"not a medium\n" * 100)


def linked(name, target):
    def make(folder):
        os.symlink(target, folder / name)
        return folder / name

    return make


def with_metadata(name, **options):
    return saved(GREY, name, **options)


def folder_named(name):
    def make(folder):
        (folder / name).mkdir()
        return folder / name

    return make


DEEP = struct.pack(">3H", 65535, 32896, 257)  # 255, 128 and 1 times 257

PICTURES = {
    "png named jpg": (changed(saved(), bytes, "a.jpg"), (10, 20, 30)),
    "odd sides": (saved(PIL.Image.new("RGB", (17, 33), RED)), RED),
    "one pixel": (saved(PIL.Image.new("RGB", (1, 1), RED)), RED),
    "16 bits of colour": (png(1, 1, 16, 2, b"\0" + DEEP), (255, 128, 1)),
    "16 bits, big-endian": (
        saved(PIL.Image.fromarray(np.full((4, 4), 32896, ">u2")), "a.tiff"),
        (128, 128, 128),
    ),
    "animated png": (animated("a.png"), RED),
    "animated webp": (animated("a.webp", lossless=True), RED),
    "animated avif": (animated("a.avif", quality=100), RED),
    "tiff of two pages": (animated("a.tiff"), RED),
    "jpeg 2000": (saved(name="a.jp2"), (10, 20, 30)),
    "colour profile, not applied": (with_metadata("a.png", icc_profile=b"\0" * 200), (10, 20, 30)),
    "broken exif": (with_metadata("a.jpg", exif=b"Exif\0\0MM\0*garbage"), (10, 20, 30)),
    "something behind the end": (
        changed(saved(name="a.jpg", quality=95), lambda data: data + b"trailing"),
        (10, 20, 30),
    ),
    "progressive jpeg": (saved(name="a.jpg", quality=95, progressive=True), (10, 20, 30)),
    "YCbCr": (
        saved(GREY.convert("YCbCr"), "a.tiff", compression="tiff_lzw"),  # Pillow 12 reads no other
        (10, 20, 30),
    ),
    "name that is no text": (saved(name="a\udcff.png"), (10, 20, 30)),
    "truncated jpeg": (changed(noise("a.jpg"), part(0.5)), "truncated"),
    "truncated png": (changed(noise("a.png"), part(0.5)), "truncated|broken"),
    "truncated webp": (changed(noise("a.webp"), part(0.5)), "could not create decoder"),
    "truncated gif": (changed(noise("a.gif"), part(0.7)), "truncated"),
    "truncated bmp": (changed(noise("a.bmp"), part(0.7)), "truncated"),
    "truncated jpeg 2000": (changed(noise("a.jp2"), part(0.7)), "broken data stream"),
    "head alone": (changed(saved(), lambda data: data[:30]), "cannot identify|truncated|broken"),
    "wrong checksum": (
        changed(saved(), lambda data: data.replace(b"IDAT", b"IDAT\1", 1)),
        "broken|truncated|incorrect",
    ),
    "no bytes": (lambda folder: write(folder / "a.png", b""), "cannot identify image"),
    "text": (text("a.png"), "cannot identify image"),
    "video named png": (
        lambda folder: write(folder / "a.png", Path(write_clip(folder / "a.mp4", 2)).read_bytes()),
        "cannot identify image",
    ),
    "decompression bomb": (png(30000, 30000, 8, 2, b"\0" * 1000), "exceeds limit of .* pixels"),
    "hardly more than a line": (saved(PIL.Image.new("RGB", (900, 2))), "more than 16 times"),
    "no finite number": (
        saved(PIL.Image.fromarray(np.full((4, 4), np.nan, np.float32)), "a.tiff"),
        "values from nan to nan; 0 to 1 are known",
    ),
    "folder named png": (folder_named("a.png"), "Is a directory"),
    "link to itself": (linked("a.png", "a.png"), "Too many levels of symbolic links"),
    "link to nothing": (linked("a.png", "gone.png"), "No such file"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken EXIF
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(tmp_path, name):
    make, truth = PICTURES[name]
    path = str(make(tmp_path))
    if isinstance(truth, str):
        with pytest.raises((OSError, ValueError)) as caught:
            media.read(media.probe(path), [View(16, 16)])
        assert re.search(truth, str(caught.value))
        return
    medium = media.probe(path)
    [pixels] = media.read(medium, [View(medium.height, medium.width)])
    tolerance = 2 if path.endswith((".jpg", ".avif")) else 2 if "YCbCr" in name else 0
    assert np.abs(pixels.astype(int) - truth).max() <= tolerance
    with PIL.Image.open(path) as image:
        assert (medium.width, medium.height) == image.size


def clip(name, count=20, **options):
    return lambda folder: write_clip(folder / name, count, **options)


def odd_clip(folder):
    """Frames of 127 x 47 pixels, cut from the right and below."""
    with av.open(str(folder / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH - 1, HEIGHT - 1, "yuv444p"
        for number in range(10):
            pixels = np.ascontiguousarray(numbered(number)[:-1, :-1])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return folder / "a.mkv"


def program(name, count, **options):
    return clip(name, count, codec="mpeg2video", options={"g": "10", **options})


def joined(*makes):
    """Two recordings in one file, as cameras and `cat` join them."""

    def make(folder):
        paths = [Path(one(folder)) for one in makes]
        data = b"".join(path.read_bytes() for path in paths)
        return write(folder / f"joined{paths[0].suffix}", data)

    return make


def smaller(folder):
    with av.open(str(folder / "small.mpg"), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(64, 32, "yuv420p")))
        container.mux(stream.encode())
    return folder / "small.mpg"


def edited(folder):
    path = write_clip(folder / "a.mp4", 40, options={"bf": "2"})
    cut_start(path, 13, timescale_per_frame=512)
    return path


def lying_avi(data):
    """The head of an AVI claims ten times the frames."""
    at = data.index(b"avih") + 8 + 16
    return data[:at] + struct.pack("<I", 200) + data[at + 4 :]


def late_times(folder):
    return write_clip(folder / "a.mkv", 20, times=[5000 + 40 * n for n in range(20)])


def irregular(folder):
    return write_clip(folder / "a.mkv", 20, times=[n * n for n in range(20)])


VIDEOS = {  # the numbers that the frames show
    "one frame": (clip("a.mp4", 1), [0]),
    "odd sides": (odd_clip, range(10)),
    "mkv named mp4": (changed(clip("a.mkv"), bytes, "b.mp4"), range(20)),
    "no compression": (clip("a.y4m", codec="rawvideo"), range(20)),
    "interlaced": (program("a.mpg", 20, flags="+ildct+ilme"), range(20)),
    "rate that varies": (irregular, range(20)),
    "times that begin late": (late_times, range(20)),
    "edit list": (edited, range(13, 40)),
    "head that lies": (changed(clip("a.avi", codec="mpeg4"), lying_avi), range(20)),
    "two recordings in one": (joined(clip("a.ts"), clip("b.ts")), "a damaged packet at"),
    "two program streams in one": (
        joined(program("a.mpg", 20), program("b.mpg", 30)),
        [*range(20), *range(30)],
    ),
    "end is missing": (changed(clip("a.mkv", options={"g": "5"}), part(0.7)), "frames"),
    "no index": (changed(clip("a.mp4"), part(0.5)), "moov atom not found|Invalid data"),
    "change of size": (joined(program("a.mpg", 20), smaller), "damaged or resized|is lost"),
    "no bytes": (lambda folder: write(folder / "a.mp4", b""), "Invalid data"),
    "text": (text("a.mp4"), "Invalid data|no video stream|moov atom"),
    "picture named mp4": (changed(saved(name="a.jpg"), bytes, "a.mp4"), "1 frames can be decoded"),
    "folder named mp4": (folder_named("a.mp4"), "Is a directory"),
    "link to itself": (linked("a.mp4", "a.mp4"), "Too many levels of symbolic links"),
    "link to nothing": (linked("a.mp4", "gone.mp4"), "No such file"),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_videos(tmp_path, name):
    make, truth = VIDEOS[name]
    path = str(make(tmp_path))
    if isinstance(truth, str):
        with pytest.raises((OSError, ValueError)) as caught:
            media.read(media.probe(path), [View(HEIGHT, WIDTH, tuple(range(20)))])
        assert re.search(truth, str(caught.value))
        assert path in str(caught.value)
        return
    medium = media.probe(path)
    assert medium.num_frames == len(truth)
    ids = tuple(range(len(truth)))
    [frames] = media.read(medium, [View(medium.height, medium.width, ids)])
    assert numbers(frames) == list(truth)
    last = media.read(medium, [View(medium.height, medium.width, ids[-1:])])
    assert numbers(last[0]) == [truth[-1]]


def test_there_are_forty_kinds():
    assert len(PICTURES) + len(VIDEOS) >= 40


def test_exif_that_stands_behind_the_pixels(tmp_path):
    """Its head promises a landscape, for which views are chosen, and the picture is a portrait."""
    exif = PIL.Image.Exif()
    exif[images.ORIENTATION] = 6
    path = tmp_path / "a.png"
    PIL.Image.new("RGB", (60, 40)).save(path, exif=exif)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])  # before IEND
    with pytest.raises(ValueError, match=r"a\.png: its head says 40x60 px, it decodes to 60x40"):
        media.read(media.probe(str(path)), [View(32, 32)])


@pytest.mark.parametrize(("make", "seconds"), [(late_times, 0.04), (irregular, None)])
def test_times_of_odd_clips(tmp_path, make, seconds):
    times_s = media.probe(str(make(tmp_path))).video.times_s
    expected = np.arange(20) * seconds if seconds else np.arange(20) ** 2 / 1000
    np.testing.assert_allclose(times_s, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, name):
    """Simulated: to the superuser, who runs tests in containers, no file is closed."""
    path = str(saved()(tmp_path) if name == "a.png" else clip(name)(tmp_path))

    def refuse(file, *args, **options):
        if str(file) == path:
            raise PermissionError(13, "Permission denied", path)
        return opened(file, *args, **options)

    opened = builtins.open
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises((OSError, ValueError), match="Permission denied"):
        media.probe(path)


def test_captions_that_say_nothing(tmp_path):
    captions = {"a": b"\xef\xbb\xbf", "b": b" \r\n", "c": b"\xef\xbb\xbfx\r\n", "d": b"x\x00y"}
    for name, data in captions.items():
        saved(name=f"{name}.png")(tmp_path)
        write(tmp_path / f"{name}.txt", data)
    listing = scan(str(tmp_path))
    assert [source.caption for source in listing.sources] == [None, None, "x", "x\0y"]


def test_a_folder_of_bad_things_is_listed_to_its_end(tmp_path):
    linked("a.png", "a.png")(tmp_path)
    os.symlink(tmp_path, tmp_path / "self")
    os.symlink("gone", tmp_path / "gone")
    folder_named("b.png")(tmp_path)
    saved(name="z\udcff.png")(tmp_path)
    write(tmp_path / os.fsdecode(b"z\xff.txt"), b"a name that is no text")
    listing = scan(str(tmp_path))
    assert [os.path.basename(source.path) for source in listing.sources] == ["a.png", "z\udcff.png"]
    assert listing.sources[1].caption == "a name that is no text"
    assert listing.failures == []
