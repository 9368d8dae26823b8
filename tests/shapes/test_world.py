# SPDX-License-Identifier: Apache-2.0
"""The shapes world: splits, jitter, room, and drawings that show what the scene says."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest

from diffnext.shapes import world
from diffnext.shapes.captions import caption, parse_prompt, short_caption
from diffnext.shapes.draw import draw, draw_video, inside

TRIPLES = list(itertools.product(world.COLOURS, world.SHAPES, world.BACKGROUNDS))


def heldout(colour: str, shape: str, background: str) -> bool:
    return world.is_heldout({"colour": colour, "shape": shape, "background": background})


def scenes(count: int, split: str = "train", *, video: bool = False) -> list[world.Scene]:
    rng = np.random.default_rng(0)
    return [world.random_scene(rng, split, video=video) for _ in range(count)]


def area(shape: str) -> float:
    """Area of a shape of radius 1 by school geometry."""
    return {
        "circle": math.pi,
        "square": 1.76**2,
        "triangle": 3 * math.sqrt(3) / 4 * 1.2**2,
        "cross": 4 * 0.72 - 0.72**2,
        "star": 5 * 1.2 * 0.54 * math.sin(math.pi / 5),
        "ring": math.pi * (1.05**2 - 0.58**2),
    }[shape]


def test_one_triple_in_seven_is_held_out_and_every_pair_is_trained() -> None:
    kept = [triple for triple in TRIPLES if not heldout(*triple)]
    assert 0.13 < 1 - len(kept) / len(TRIPLES) < 0.16
    for first, second in itertools.combinations(range(3), 2):
        pairs = {(triple[first], triple[second]) for triple in TRIPLES}
        assert {(triple[first], triple[second]) for triple in kept} == pairs


@pytest.mark.parametrize("video", [False, True])
def test_splits_do_not_meet(video: bool) -> None:
    train = {caption(scene) for scene in scenes(2000, video=video)}
    other = {caption(scene) for scene in scenes(2000, "heldout", video=video)}
    assert not train & other
    assert all(world.is_heldout(parse_prompt(text)) for text in other)


def test_every_value_occurs() -> None:
    for key, values in world.VALUES.items():
        assert {getattr(scene, key) for scene in scenes(2000, video=True)} == set(values)


def test_the_same_seed_gives_the_same_scene() -> None:
    assert scenes(20, video=True) == scenes(20, video=True)


@pytest.mark.parametrize("video", [False, True])
def test_shapes_stay_inside_and_near_their_place(video: bool) -> None:
    for scene in scenes(1000, video=video):
        reach = world.REACH[scene.shape] * scene.radius
        for moment in (0.0, 1.0):
            for value in scene.centre(moment):
                assert reach <= value <= 1 - reach
        x, y = world.PLACES[scene.place]
        assert abs(scene.x - x) < 0.09 and abs(scene.y - y) < 0.09  # places are 0.22 apart


def test_colours_contrast_with_every_background() -> None:
    for front, back in itertools.product(world.COLOURS.values(), world.BACKGROUNDS.values()):
        assert np.abs(np.subtract(front, back)).max() >= 80


@pytest.mark.parametrize("shape", world.SHAPES)
def test_outlines_have_their_area_centre_and_reach(shape: str) -> None:
    axis = (np.arange(800) + 0.5) / 800 * 2.8 - 1.4
    v, u = np.meshgrid(axis, axis, indexing="ij")
    hits = inside(shape, u, v)
    assert hits.mean() * 2.8**2 == pytest.approx(area(shape), rel=0.005)  # pixels of an edge
    assert abs(u[hits].mean()) < 0.005 and abs(v[hits].mean()) < 0.005
    assert np.hypot(u[hits], v[hits]).max() == pytest.approx(world.REACH[shape], abs=0.01)


@pytest.mark.parametrize("shape", ["triangle", "star"])
def test_a_tip_points_up(shape: str) -> None:
    tip = world.REACH[shape] - 0.01
    assert inside(shape, np.array(0.0), np.array(-tip))
    assert not inside(shape, np.array(0.0), np.array(tip))


def test_a_drawing_has_the_colours_and_the_area_of_its_scene() -> None:
    for scene in scenes(200):
        picture = draw(scene, 64).astype(float)
        assert picture.shape == (64, 64, 3)
        assert tuple(picture[0, 0]) == scene.background_rgb
        way = np.subtract(scene.rgb, scene.background_rgb)
        share = (picture - scene.background_rgb) @ way / (way @ way)
        wanted = area(scene.shape) * (scene.radius * 64) ** 2
        assert share.sum() == pytest.approx(wanted, rel=0.02)
        rows, columns = np.mgrid[:64, :64] + 0.5
        assert (share * columns).sum() / share.sum() == pytest.approx(scene.x * 64, abs=0.2)
        assert (share * rows).sum() / share.sum() == pytest.approx(scene.y * 64, abs=0.2)


def test_a_video_moves_as_its_scene_says() -> None:
    for scene in scenes(20, video=True):
        frames = draw_video(scene, 64, 17)
        assert frames.shape == (17, 64, 64, 3) and frames.dtype == np.uint8
        np.testing.assert_array_equal(frames[0], draw(scene, 64))
        ends = []
        for frame in (frames[0], frames[-1]):
            rows, columns = np.nonzero(np.abs(frame - frame[0, 0].astype(int)).max(-1) > 40)
            ends.append(np.array([columns.mean(), rows.mean()]))
        dx, dy = world.DIRECTIONS[scene.direction]
        step = (ends[1] - ends[0]) / 16
        pixels = scene.flow(17, 8) * 12 / 8 * 64 / 480  # a frame, of 1/12 s and 480 lines
        assert step @ [dx, dy] == pytest.approx(pixels, abs=0.05)
        assert abs(step @ [dy, dx]) < 0.05


@pytest.mark.parametrize("video", [False, True])
def test_captions_name_everything_and_are_read_back(video: bool) -> None:
    for scene in scenes(500, video=video):
        assert parse_prompt(caption(scene)) == scene.names()
        assert len(caption(scene).split()) <= 16
        short = parse_prompt(short_caption(scene))
        assert short.items() <= scene.names().items() and {"colour", "shape"} <= short.keys()


def test_captions_are_plain_sentences() -> None:
    rng = np.random.default_rng(0)
    names = {"colour": "orange", "shape": "star", "size": "small", "place": "top left"}
    names |= {"background": "white", "direction": "down", "speed": "slowly"}
    scene = world.realise(names, rng)
    assert caption(scene) == (
        "A small orange star at the top left on a white background moving down slowly."
    )
    assert short_caption(scene) == "an orange star moving down"


def test_prompts_in_other_words_are_understood() -> None:
    assert parse_prompt("On a GREY background: two rings, in the centre") == {
        "shape": "ring",
        "place": "center",
        "background": "gray",
    }
    assert parse_prompt("a dog") == {}
    with pytest.raises(ValueError, match="more than one colour: blue, red"):
        parse_prompt("a red circle and a blue circle")


def test_scenes_that_cannot_be_are_refused() -> None:
    rng = np.random.default_rng(0)
    names = {
        "colour": "red",
        "shape": "star",
        "size": "small",
        "place": "left",
        "background": "gray",
    }
    with pytest.raises(ValueError, match="unknown colour 'rouge', wanted one of red"):
        world.realise(names | {"colour": "rouge"}, rng)
    with pytest.raises(ValueError, match="no room to move left quickly from left"):
        world.realise(names | {"direction": "left", "speed": "quickly"}, rng)
    with pytest.raises(ValueError, match="both or none"):
        world.realise(names | {"direction": "left"}, rng)
    with pytest.raises(ValueError, match="split is 'test'"):
        world.random_scene(rng, "test")


def test_no_network_library_is_needed() -> None:
    code = "import sys, diffnext.shapes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
