# SPDX-License-Identifier: Apache-2.0
"""The judge: right pictures pass, wrong ones fail in what is wrong, and only there."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from diffnext.shapes import draw, draw_video, random_scene, realise, world
from diffnext.shapes.score import aggregate, diversity, judge, score
from diffnext.shapes.see import see

RNG = np.random.Generator


def clean(picture: np.ndarray, rng: RNG) -> np.ndarray:
    return picture


def blurred(picture: np.ndarray, rng: RNG) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)))


def noisy(picture: np.ndarray, rng: RNG) -> np.ndarray:
    return np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)


def blurred_and_noisy(picture: np.ndarray, rng: RNG) -> np.ndarray:
    return noisy(blurred(picture, rng), rng)


def jpeg(picture: np.ndarray, rng: RNG) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file).convert("RGB"))


def pale(picture: np.ndarray, rng: RNG) -> np.ndarray:
    """A fifth of the contrast gone, and a cast of colour."""
    shifted = 128 + (picture - 128.0) * 0.8 + rng.normal(0, 5, 3)
    return np.clip(shifted, 0, 255).astype(np.uint8)


def enlarged(picture: np.ndarray, rng: RNG) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((160, 160), Image.Resampling.BILINEAR))


SPOILT = [clean, blurred, noisy, blurred_and_noisy, jpeg, pale, enlarged]


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_pictures_are_recognised(spoil) -> None:
    rng = np.random.default_rng(0)
    found = []
    for number in range(500):
        scene = random_scene(rng, world.SPLITS[number % 2])
        found.append(score(spoil(draw(scene, 64), rng), scene.names()))
    shares = aggregate(found)
    assert {key for key, share in shares.items() if share < 0.99} == set()
    assert shares["count"] == 500


@pytest.mark.parametrize("spoil", [clean, blurred_and_noisy, pale], ids=lambda s: s.__name__)
def test_videos_are_recognised(spoil) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        scene = random_scene(rng, video=True)
        frames = [spoil(frame, rng) for frame in draw_video(scene, 64, 9)]
        found.append(score(np.stack(frames), scene.names()))
    assert aggregate(found)["all"] >= 0.97  # one of 40


@pytest.mark.parametrize("key", world.PICTURE)
def test_a_picture_that_is_wrong_in_one_attribute_fails_in_it_alone(key: str) -> None:
    rng = np.random.default_rng(1)
    for asked, shown in itertools.permutations(world.VALUES[key], 2):
        wanted = random_scene(rng).names() | {key: asked}
        pixels = blurred_and_noisy(draw(realise(wanted | {key: shown}, rng), 64), rng)
        right = score(pixels, wanted)
        assert [name for name, well in right.items() if not well] == [key], (wanted, shown)


@pytest.mark.parametrize("key", world.ATTRIBUTES)
def test_a_video_that_is_wrong_in_one_attribute_fails_in_it_alone(key: str) -> None:
    rng = np.random.default_rng(2)
    pairs = list(itertools.permutations(world.VALUES[key], 2))
    judged = 0
    for asked, shown in pairs:
        for _ in range(30):  # until both have room; from opposite corners no motion has
            names = random_scene(rng, video=True).names()
            wanted, other = names | {key: asked}, names | {key: shown}
            if world.has_room(wanted) and world.has_room(other):
                right = score(draw_video(realise(other, rng), 64, 5), wanted)
                assert [name for name, well in right.items() if not well] == [key], (wanted, shown)
                judged += 1
                break
    assert judged > len(pairs) / 2


def test_only_what_is_asked_is_judged() -> None:
    rng = np.random.default_rng(0)
    names = random_scene(rng).names() | {"colour": "red", "shape": "ring"}
    pixels = draw(realise(names, rng), 64)
    assert score(pixels, {"colour": "red"}) == {"colour": True, "single": True}
    assert score(pixels, {"shape": "star", "direction": "left"}) == {
        "shape": False,
        "direction": False,  # a picture does not move
        "single": True,
    }


@pytest.mark.parametrize("level", [0, 130, 255])
def test_nothing_there_is_wrong(level: int) -> None:
    rng = np.random.default_rng(0)
    empty = np.full((64, 64, 3), level, np.uint8)
    for pixels in (empty, noisy(empty, rng), np.stack([empty] * 5)):
        right = score(pixels, random_scene(rng).names() | {"background": "gray"})
        assert not any(right.values())


def test_noise_is_no_scene() -> None:
    rng = np.random.default_rng(0)
    for cells in (4, 6, 9, 64):
        for _ in range(25):
            coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC))
            names = see(pixels).names
            assert not names or None in names.values()


@pytest.mark.parametrize(
    "outline",
    [
        pytest.param([(70, 128), (186, 128), (186, 160), (70, 160)], id="bar"),
        pytest.param([(90, 80), (115, 80), (115, 150), (166, 150), (166, 176), (90, 176)], id="L"),
        pytest.param([(83, 102), (173, 102), (128, 180)], id="triangle on its tip"),
    ],
)
def test_other_shapes_are_no_shape(outline: list[tuple[int, int]]) -> None:
    canvas = Image.new("RGB", (256, 256), world.BACKGROUNDS["white"])
    ImageDraw.Draw(canvas).polygon(outline, world.COLOURS["red"])
    seen = see(np.asarray(canvas))
    assert seen.names["shape"] is None
    assert seen.names["colour"] == "red" and seen.names["background"] == "white"


def test_other_colours_are_no_colour() -> None:
    canvas = Image.new("RGB", (64, 64), world.BACKGROUNDS["white"])
    ImageDraw.Draw(canvas).ellipse((22, 22, 41, 41), (110, 110, 110))
    seen = see(np.asarray(canvas))
    assert seen.names["colour"] is None and seen.names["shape"] == "circle"


def test_a_second_thing_is_not_overlooked() -> None:
    rng = np.random.default_rng(0)
    names = {"colour": "red", "shape": "star", "size": "medium", "place": "top left"}
    names |= {"background": "white"}
    one = draw(realise(names, rng), 64)
    two = draw(realise(names | {"place": "bottom right"}, rng), 64)
    both = one.copy()
    both[32:, 32:] = two[32:, 32:]
    assert score(one, names)["single"] and not score(both, names)["single"]


def test_a_shape_that_jumps_or_rests_has_no_direction() -> None:
    rng = np.random.default_rng(0)
    names = random_scene(rng, video=True).names()
    frames = draw_video(realise(names, rng), 64, 9)
    assert score(frames, names)["direction"]
    rest = score(np.stack([frames[0]] * 9), names)
    assert not rest["direction"] and not rest["speed"] and rest["place"] and rest["shape"]
    there_and_back = np.concatenate([frames[::2], frames[::-2]])
    assert not score(there_and_back, names)["direction"]


def test_a_shape_must_be_there_in_nearly_all_frames() -> None:
    rng = np.random.default_rng(0)
    scene = random_scene(rng, video=True)
    frames = draw_video(scene, 64, 16)
    frames[5] = frames[5, 0, 0]
    assert all(score(frames, scene.names()).values())
    frames[9] = frames[9, 0, 0]
    assert not any(score(frames, scene.names()).values())


def test_what_is_seen_is_measured() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        scene = random_scene(rng)
        seen = see(blurred(draw(scene, 64), rng))
        assert np.hypot(seen.x - scene.x, seen.y - scene.y) < 0.5 / 64
        assert seen.radius == pytest.approx(scene.radius, rel=0.08)  # sizes are 40 % apart
        assert min(seen.margins.values()) > 0.3


def test_shares_count_what_was_asked() -> None:
    shares = aggregate(
        [
            {"colour": True, "shape": True, "single": False},
            {"colour": True, "shape": False, "single": True},
            {"colour": False, "single": True},
            {"shape": True, "single": True},
        ]
    )
    assert shares == {
        "count": 4,
        "colour": pytest.approx(2 / 3),
        "shape": pytest.approx(2 / 3),
        "single": 0.75,
        "colour and shape": 0.5,
        "all": 0.25,
    }


def test_diversity_is_that_of_the_world() -> None:
    rng = np.random.default_rng(0)
    names = {"colour": "red", "shape": "circle", "size": "small", "place": "center"}
    names |= {"background": "black"}
    pictures = [draw(realise(names, rng), 64) for _ in range(100)]
    found = diversity(pictures, [see(picture) for picture in pictures])
    uniform = 1 / np.sqrt(3)  # standard deviation of a uniform number of -1..1
    assert found["place"] == pytest.approx(uniform * world.PLACE_JITTER * np.sqrt(2), rel=0.15)
    assert found["size"] == pytest.approx(uniform * world.SIZE_JITTER, rel=0.3)
    values = np.stack(pictures[:10]) / 255.0
    pairs = [np.square(a - b).mean() for a, b in itertools.combinations(values, 2)]
    few = diversity(pictures[:10], [see(picture) for picture in pictures[:10]])
    assert few["pixels"] == pytest.approx(np.sqrt(np.mean(pairs)))


def test_diversity_of_copies_is_none_at_all() -> None:
    picture = draw(random_scene(np.random.default_rng(0)), 64)
    assert diversity([picture], [see(picture)]) is None
    found = diversity([picture] * 3, [see(picture)] * 3)
    assert found == pytest.approx({"pixels": 0, "place": 0, "size": 0}, abs=1e-12)
    empty = np.zeros((64, 64, 3), np.uint8)
    assert diversity([empty, picture], [see(empty), see(picture)])["place"] == 0


def test_wrong_input_is_refused() -> None:
    picture = draw(random_scene(np.random.default_rng(0)), 64)
    with pytest.raises(ValueError, match="names no attribute"):
        judge(see(picture), {})
    with pytest.raises(ValueError, match="unknown shape 'cube'"):
        score(picture, {"shape": "cube"})
    with pytest.raises(ValueError, match="float64"):
        see(picture / 255)
    with pytest.raises(ValueError, match="64 x 48"):
        see(picture[:, :48])
    with pytest.raises(ValueError, match="no pictures"):
        aggregate([])
