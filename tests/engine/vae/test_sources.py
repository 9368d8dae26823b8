# SPDX-License-Identifier: Apache-2.0
"""Training data is a function of seed, step and place; held-out data is never trained on."""

from __future__ import annotations

import numpy as np
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
    for value in range(40):
        Image.new("RGB", (16, 16), (value, value, value)).save(tmp_path / f"{value}.png")
    source = FolderSource(str(tmp_path), 16, 1)
    assert source.num_heldout() == 2
    held = {int(source.heldout(i, 1)[0, 0, 0, 0]) for i in range(2)}
    rng = np.random.default_rng(0)
    trained = {int(source.train(rng, 1)[0, 0, 0, 0]) for _ in range(400)}
    assert trained == set(range(40)) - held


def test_the_held_out_shapes_are_the_worlds_own():
    source = ShapesSource(32, 1)
    again = ShapesSource(32, 1)
    assert np.array_equal(source.heldout(3, 1), again.heldout(3, 1))
    assert not np.array_equal(source.heldout(3, 1), source.heldout(4, 1))
