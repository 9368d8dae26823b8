# SPDX-License-Identifier: Apache-2.0
"""Guidance against its formulas."""

import pytest
import torch

from diffnext.models.guidance_scaler import Guidance


@pytest.fixture
def predictions():
    return torch.randn(3, 2, 4, 8, generator=torch.Generator().manual_seed(0))


def test_passes():
    assert Guidance().num_passes == 1
    assert Guidance(1.0, stg_scale=2).num_passes == 1
    assert Guidance(5).prompt_passes == (True, False)
    assert Guidance(5, image_scale=1).prompt_passes == (True, False, False)
    assert Guidance(5, image_scale=1).video_passes == (True, False, True)
    assert Guidance(5, stg_scale=1).prompt_passes == (True, False, True)
    assert Guidance(5, stg_scale=1).video_passes == (True, True, True)


def test_two_third_passes():
    with pytest.raises(ValueError, match="exclude each other"):
        Guidance(5, image_scale=1, stg_scale=1)


def test_the_strength_grows_to_the_scale():
    guidance = Guidance(5, min_scale=1)
    assert [guidance.scale_at(k, 4) for k in range(4)] == [2, 3, 4, 5]
    assert Guidance(5).scale_at(0, 4) == 5


def test_combinations(predictions):
    c, u, third = predictions
    close = torch.testing.assert_close
    close(Guidance().combine(predictions[:1], 1), c)
    close(Guidance(5).combine(predictions[:2], 4), u + 4 * (c - u))
    image = Guidance(5, image_scale=1.5).combine(predictions, 4)
    close(image, u + 4 * (c - third) + 1.5 * (third - u))
    stg = Guidance(5, stg_scale=1.5).combine(predictions, 4)
    close(stg, u + 4 * (c - u) + 1.5 * (c - third))


@pytest.mark.parametrize("renorm", [0.1, 0.9])
def test_renorm_brings_each_sample_back_to_its_norm(predictions, renorm):
    found = Guidance(5, renorm=renorm).combine(predictions[:2], 5)
    plain = Guidance(5).combine(predictions[:2], 5)
    for sample in range(2):
        factor = (predictions[0, sample].norm() / plain[sample].norm()).item()
        wanted = plain[sample] * min(max(factor, renorm), 1)
        torch.testing.assert_close(found[sample], wanted)


@pytest.mark.parametrize("kind", ["image", "stg"])
def test_the_third_prediction_comes_after_the_renorm(predictions, kind):
    c, u, third = predictions
    found = Guidance(5, renorm=0.1, **{f"{kind}_scale": 1.5}).combine(predictions, 5)
    guided = u + 5 * (c - third) if kind == "image" else u + 5 * (c - u)
    factor = (c.flatten(1).norm(dim=1) / guided.flatten(1).norm(dim=1)).clamp(0.1, 1)
    rest = third - u if kind == "image" else c - third
    torch.testing.assert_close(found, guided * factor[:, None, None] + 1.5 * rest)
