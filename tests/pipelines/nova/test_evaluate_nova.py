# SPDX-License-Identifier: Apache-2.0
"""The held-out loss is the training loss at given timesteps and shares of masked tokens."""

import pytest
import torch

from diffnext.models.transformers.transformer_3d import select
from diffnext.pipelines.nova.train_nova import StepDraws
from diffnext.pipelines.train_base import Grid
from diffnext.utils.seeding import Draws
from tests.pipelines.nova.test_train_nova import FAMILIES, batch_of, family

GRID = Grid(timesteps=(20, 500, 1000), mask_ratios=(0.25, 1.0))


def evaluated(pipe, name, grid=GRID, index=None):
    batch = batch_of(name) if index is None else batch_of(name, index)
    draws = Draws(3, 0, [(i,) for i in batch.index.tolist()], name="eval")
    return pipe.evaluate(pipe.model, batch, draws=draws, grid=grid)


def test_places_of_the_grid_are_named():
    found = evaluated(family("nova_train_t2i"), "nova_train_t2i")
    times, masks = ("_t20", "_t500", "_t1000"), ("_m25", "_m100")
    singles = {f"loss{t}{m}" for t in times for m in masks}
    assert set(found) == {"loss", *(f"loss{x}" for x in times + masks), *singles}
    assert all(loss.shape == (6,) for loss in found.values())
    mean = torch.stack([found[name] for name in sorted(singles)]).mean(0)
    torch.testing.assert_close(found["loss"], mean)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_place_of_the_grid_is_the_training_loss_there(name):
    """The same noise and masks, handed to the loss that training minimises."""
    pipe = family(name, dropout=0.0)
    found = evaluated(pipe, name)
    draws = Draws(3, 0, [(i,) for i in range(6)], name="eval")
    inputs = pipe.prepare(batch_of(name), draws=draws)
    frames = inputs.latents.size(2)
    tokens, values = pipe.model.patchify(inputs.latents[:1, :, 0]).shape[-2:]
    order = draws.stream("order").rand(frames, tokens).argsort(-1).flatten(0, 1)
    noise = draws.stream("noise").randn(frames, tokens, values).flatten(0, 1)
    told = pipe.scheduler.model_timesteps(torch.arange(1000))
    for ratio, kind in ((0.25, "m25"), (1.0, "m100")):
        visible, masked = order.tensor_split([round((1 - ratio) * tokens)], dim=1)
        for timestep in GRID.timesteps:
            place = (told - timestep).abs().argmin()
            one = StepDraws(
                visible_ids=visible,
                masked_ids=masked,
                timesteps=place.expand(1, *masked.shape),
                noise=select(noise, masked)[None],
            )
            wanted = pipe.loss(pipe.model, inputs, draws=one).per_sample
            torch.testing.assert_close(found[f"loss_t{timestep:g}_{kind}"], wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sample_is_measured_alike_in_any_batch_and_always_with_its_prompt(name):
    with_prompts, pipe = family(name, dropout=0.0), family(name, dropout=1.0)
    pipe.model.load_state_dict(with_prompts.model.state_dict())
    whole = evaluated(with_prompts, name)
    alone = evaluated(pipe, name, index=torch.tensor([4]))
    for key, losses in whole.items():
        torch.testing.assert_close(alone[key], losses[4:5], msg=key)


def test_the_least_share_hides_one_token():
    grid = Grid(timesteps=(500,), mask_ratios=(0.001,))
    found = evaluated(family("nova_train_t2i"), "nova_train_t2i", grid)
    assert set(found) == {"loss", "loss_t500"}
    assert found["loss"].isfinite().all()
