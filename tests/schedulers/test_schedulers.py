# SPDX-License-Identifier: Apache-2.0
"""Noise for single tokens against noise for samples, by diffusers and by formula."""

import diffusers
import numpy as np
import pytest
import torch

from diffnext.schedulers import scheduling_flow
from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler
from diffnext.utils.seeding import Draws

X0, NOISE = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
TIMES = torch.tensor([[0, 10, 500, 998, 999]] * 3)


def test_ddpm_adds_to_each_token_what_diffusers_adds_to_a_sample():
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    ours, theirs = DDPMScheduler(**options), diffusers.DDPMScheduler(**options)
    found = ours.add_noise(X0, NOISE, TIMES)
    wanted = theirs.add_noise(X0.flatten(0, 1), NOISE.flatten(0, 1), TIMES.flatten())
    torch.testing.assert_close(found.flatten(0, 1), wanted)
    of_samples = TIMES[:, 2]
    wanted = theirs.add_noise(X0, NOISE, of_samples)
    torch.testing.assert_close(ours.add_noise(X0, NOISE, of_samples), wanted)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_ddpm_targets_lead_back_to_x0(kind):
    scheduler = DDPMScheduler(prediction_type=kind, clip_sample=False)
    times = torch.full((3, 5), 300)
    target = scheduler.target(X0, NOISE, times)
    x_t = scheduler.add_noise(X0, NOISE, times)
    found = scheduler.step(target, 300, x_t).pred_original_sample
    torch.testing.assert_close(found, X0, rtol=1e-4, atol=1e-5)


def test_an_unknown_target():
    with pytest.raises(ValueError, match="'score'"):
        DDPMScheduler(prediction_type="score").target(X0, NOISE, TIMES)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_times_are_places_in_the_descending_schedule(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    torch.testing.assert_close(scheduler.model_timesteps(TIMES), schedule.timesteps[TIMES])
    sigmas = schedule.sigmas[TIMES].unsqueeze(-1)
    wanted = (1 - sigmas) * X0 + sigmas * NOISE
    torch.testing.assert_close(scheduler.add_noise(X0, NOISE, TIMES), wanted)
    assert torch.equal(scheduler.target(X0, NOISE, TIMES), NOISE - X0)


def test_sampling_does_not_change_the_training_schedule():
    scheduler = FlowMatchEulerDiscreteScheduler()
    before = scheduler.model_timesteps(TIMES)
    scheduler.set_shift(3.0)
    scheduler.set_timesteps(4)
    assert torch.equal(scheduler.model_timesteps(TIMES), before)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_sampling_levels(shift):
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_shift(shift)
    scheduler.set_timesteps(5)
    sigmas = np.linspace(1, 0.001, 5)
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    wanted = torch.tensor([*sigmas, 0], dtype=torch.float32)
    torch.testing.assert_close(scheduler.sigmas, wanted)
    torch.testing.assert_close(scheduler.timesteps, wanted[:-1] * 1000)


def test_flow_steps_follow_the_straight_path():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    x = NOISE
    for timestep in scheduler.timesteps:
        x = scheduler.step(NOISE - X0, timestep, x, return_dict=False)[0]
    torch.testing.assert_close(x, X0, rtol=1e-5, atol=1e-5)


def test_levels_may_be_given():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.25])
    assert scheduler.sigmas.tolist() == [1.0, 0.25, 0.0]


def test_levels_are_those_of_single_precision():
    """To the last bit: the published model rounds in each operation, and pictures show it."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_shift(3.0)
    scheduler.set_timesteps(25)
    sigmas = torch.from_numpy(np.linspace(1000, 1, 25, dtype=np.float32)) / 1000
    assert torch.equal(scheduler.sigmas[:-1], 3 * sigmas / (1 + 2 * sigmas))


def test_levels_of_a_model_that_was_trained_with_a_shift():
    """As diffusers has it: from the shifted ends of training, shifted once more."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    last = 3 * 0.001 / (1 + 2 * 0.001)
    sigmas = np.linspace(1, last, 5)
    wanted = torch.tensor([*(3 * sigmas / (1 + 2 * sigmas)), 0], dtype=torch.float32)
    torch.testing.assert_close(scheduler.sigmas, wanted)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(5)
    torch.testing.assert_close(scheduler.sigmas, theirs.sigmas)


@pytest.mark.parametrize("cls", [DDPMScheduler, FlowMatchEulerDiscreteScheduler])
def test_folders_go_to_diffusers_and_back(cls, tmp_path):
    options = {"num_train_timesteps": 500}
    cls(**options).save_pretrained(tmp_path / "ours")
    theirs = getattr(diffusers, cls.__name__).from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = cls.from_pretrained(tmp_path / "theirs")
    private = ("_class_name", "_diffusers_version", "_use_default_values")
    configs = [
        {key: value for key, value in one.config.items() if key not in private}
        for one in (cls(**options), theirs, again)
    ]
    assert configs[0] == configs[1] == configs[2]


@pytest.mark.parametrize("scheduler", [DDPMScheduler(), FlowMatchEulerDiscreteScheduler()])
def test_drawn_times_belong_to_samples(scheduler):
    whole = scheduler.draw_timesteps(Draws(0, 0, [(0, 1), (0, 2)]), 4, 3)
    second = scheduler.draw_timesteps(Draws(0, 5, [(0, 2)]), 4, 3)
    assert whole.shape == (2, 4, 3)
    assert whole.dtype == torch.int64
    assert whole.min() >= 0 and whole.max() < 1000
    assert torch.equal(whole[1:], second)


def test_the_older_address():
    assert scheduling_flow.FlowMatchEulerDiscreteScheduler is FlowMatchEulerDiscreteScheduler
