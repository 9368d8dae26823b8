# SPDX-License-Identifier: Apache-2.0
"""Training data is a function of seed, step and place; held-out data is never trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffnext.engine.vae.sources import Batches, FolderSource, ShapesSource, stack


def batches(**options) -> Batches:
    return Batches(ShapesSource(32, 9), batch_size=2, seed=3, **options)


def test_batches_made_ahead_are_those_made_at_once():
    lengths = (1, 5, 9)
    one = batches(lengths=lengths, crop=16, workers=3)
    ahead = list(one.between(2, 9))
    assert len(ahead) == 7
    for step, batch in enumerate(ahead, start=2):
        assert torch.equal(batch, one.at(step))
    assert {batch.dim() for batch in ahead} == {4, 5}
    assert all(batch.shape[-2:] == (16, 16) for batch in ahead)


def test_steps_places_and_seeds_differ():
    first, second = batches().at(0), batches().at(1)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    other = Batches(ShapesSource(32, 9), batch_size=2, seed=4).at(0)
    assert not torch.equal(first, other)


def test_pixels_become_numbers_from_minus_one_to_one():
    clip = np.zeros((3, 4, 6, 3), np.uint8)
    clip[1, 2, 5] = (255, 0, 51)
    x = stack([clip])
    assert x.shape == (1, 3, 3, 4, 6)
    assert x[0, :, 1, 2, 5].tolist() == [1.0, -1.0, np.float32(51 / 127.5 - 1)]
    assert stack([clip[:1]]).shape == (1, 3, 4, 6)


def test_held_out_files_are_never_trained_on(tmp_path):
    make_pictures(tmp_path, 40)
    source = FolderSource(str(tmp_path), 16, 1)
    assert source.num_heldout() == 2
    held = {int(source.heldout(i, 1)[0, 0, 0, 0]) for i in range(2)}
    rng = np.random.default_rng(0)
    trained = {int(source.train(rng, 1)[0, 0, 0, 0]) for _ in range(400)}
    assert trained == set(range(40)) - held


def make_pictures(folder: Path, count: int) -> None:
    for value in range(count):
        Image.new("RGB", (16, 16), (value, value, value)).save(folder / f"{value}.png")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def test_files_that_cannot_be_opened_and_hidden_ones_are_left_out(tmp_path):
    make_pictures(tmp_path, 5)
    cut(tmp_path / "3.png", 10)
    (tmp_path / "._0.png").write_bytes(b"Mac OS X")
    source = FolderSource(str(tmp_path), 16, 1)
    assert {Path(file.path).name for file in source.files} == {"0.png", "1.png", "2.png", "4.png"}
    assert [(f.file, f.stage) for f in source.failures] == [(str(tmp_path / "3.png"), "probe")]


def test_a_file_that_cannot_be_decoded_is_replaced_by_the_next(tmp_path):
    rng = np.random.default_rng(0)
    for name in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / f"{name}.png")
    source = FolderSource(str(tmp_path), 64, 1)
    for file in (source.files[0], source.files[2]):
        cut(Path(file.path), 4000)  # the head is whole
    wanted = [np.asarray(Image.open(source.files[i].path)) for i in (1, 3)]
    clips = [source.train(np.random.default_rng(seed), 1)[0] for seed in range(20)]
    assert {clip.tobytes() for clip in clips} == {picture.tobytes() for picture in wanted}
    again = [source.train(np.random.default_rng(seed), 1)[0] for seed in range(20)]
    assert np.array_equal(clips, again)
    assert [(f.file, f.stage) for f in source.failures] == [(source.files[2].path, "decode")]
    with pytest.raises(ValueError, match=r"none of 1 files of --input .* can be decoded, as"):
        source.heldout(0, 1)


def test_the_held_out_shapes_are_the_worlds_own():
    source = ShapesSource(32, 1)
    again = ShapesSource(32, 1)
    assert np.array_equal(source.heldout(3, 1), again.heldout(3, 1))
    assert not np.array_equal(source.heldout(3, 1), source.heldout(4, 1))
