# SPDX-License-Identifier: Apache-2.0
"""Sampling: sizes of sets, order of draws, given frames, guidance that changes nothing."""

import pytest
import torch

from diffnext.models.guidance_scaler import Guidance
from diffnext.models.transformers.generation_3d import generate, set_sizes
from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler
from tests.models.tiny import TEXT_DIM, video_net


def sample(net, guidance=None, *, scheduler=None, generator=7, batch=2, frames=2, **options):
    guidance = Guidance(scale=3) if guidance is None else guidance
    prompts = torch.randn(batch, 4, TEXT_DIM, generator=torch.Generator().manual_seed(1))
    texts = []
    for has_prompt in guidance.prompt_passes:
        texts += [text if has_prompt else text[:0] for text in prompts]
    text, length = net.text_embed.pad(texts)
    motion = {"flow": torch.full((len(text),), 5.0), "fps": torch.full((len(text),), 12.0)}
    cond = net.embed(text=text, text_length=length, **motion)
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    return generate(
        net,
        scheduler or FlowMatchEulerDiscreteScheduler(),
        cond,
        num_frames=frames,
        num_ar_steps=options.pop("num_ar_steps", 3),
        num_diffusion_steps=2,
        guidance=guidance,
        generator=generator,
        **options,
    )


@pytest.fixture(scope="module")
def net():
    return video_net().eval()


@pytest.mark.parametrize(("steps", "tokens"), [(1, 16), (4, 16), (20, 16), (64, 4096)])
def test_each_token_is_predicted_once(steps, tokens):
    sizes = set_sizes(steps, tokens)
    assert len(sizes) == steps
    assert sum(sizes) == tokens
    assert min(sizes) >= 0


def test_sets_grow_along_a_cosine():
    assert set_sizes(3, 100) == [13, 37, 50]  # 100 cos(pi / 6) = 87, 100 cos(pi / 3) = 50


def test_the_same_seed_gives_the_same_latents(net):
    found = sample(net)
    assert found.shape == (2, 4, 2, 8, 8)
    assert found.dtype == torch.float32
    assert torch.equal(found, sample(net))
    assert not torch.allclose(found, sample(net, generator=8))


def test_latents_are_stepped_in_single_precision_whatever_the_network_computes_in():
    net = video_net().eval()
    single = sample(net, frames=1, num_ar_steps=1)
    half = sample(net.bfloat16(), frames=1, num_ar_steps=1)
    assert half.dtype == torch.float32
    assert not torch.equal(half, half.bfloat16().float())
    assert (half - single).norm() < 0.1 * single.norm()  # bfloat16 has 8 bits, guidance triples


def test_given_frames_stay_and_lead(net):
    first = torch.randn(2, 4, 8, 8)
    found = sample(net, latents=[first])
    assert torch.equal(found[:, :, 0], first)
    other = sample(net, latents=[first + 1])
    assert not torch.allclose(found[:, :, 1], other[:, :, 1])


def test_a_sampled_frame_has_the_condition_that_training_gives_it(net, monkeypatch):
    seen = {}

    def spy(name, plain):
        def call(*args, **kwargs):
            seen[name] = args, plain(*args, **kwargs)
            return seen[name][1]

        monkeypatch.setattr(net, name, call)

    for name in ("embed", "encode_image"):
        spy(name, getattr(net, name))
    clip = torch.randn(2, 4, 3, 8, 8)
    sample(net, Guidance(), frames=3, latents=clip.unbind(2)[:2])
    (_, video, *_), _ = seen["encode_image"]
    wanted = net.encode_video(clip, seen["embed"][1]).unflatten(0, (2, 3))[:, 2]
    torch.testing.assert_close(video, wanted)


def test_a_later_frame_does_not_change_an_earlier_one(net):
    torch.testing.assert_close(sample(net, frames=3)[:, :, :2], sample(net, frames=2))


def test_draws_come_in_the_documented_order(net):
    """With one set and one step of the schedule, noise is what remains of x_T."""
    generator = torch.Generator().manual_seed(7)
    torch.rand(2, 16, 1, generator=generator)
    noise = torch.randn(2, 4, 8, 8, generator=generator)
    spent = torch.Generator().manual_seed(7)
    found = sample(net, frames=1, num_ar_steps=1, generator=spent, scheduler=Still())
    torch.testing.assert_close(found[:, :, 0], noise)
    assert torch.equal(generator.get_state(), spent.get_state())


def test_the_denoiser_is_told_the_times_of_the_schedule_as_they_are(net, monkeypatch):
    embed, told = net.image_decoder.time_cond_embed, []
    plain = embed.embed_timestep
    monkeypatch.setattr(embed, "embed_timestep", lambda t: told.append(t) or plain(t))
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_shift(3.0)
    sample(net, frames=1, num_ar_steps=1, scheduler=scheduler)
    assert [one.unique().item() for one in told] == pytest.approx([1000, 3 / 1.002])


def test_guidance_compares_whole_frames_with_the_state_in_place_of_tokens_of_other_sets(
    net, monkeypatch
):
    seen, combine = [], Guidance.combine
    monkeypatch.setattr(
        Guidance, "combine", lambda self, x, s: seen.append(x) or combine(self, x, s)
    )
    sample(net, frames=1, scheduler=Still())
    generator = torch.Generator().manual_seed(7)
    torch.rand(2, 16, 1, generator=generator)
    for size, first in zip(set_sizes(3, 16), seen[::2], strict=True):  # of two steps
        state = net.patchify(torch.randn(2, 4, 8, 8, generator=generator))
        kept = first.isclose(state).all(-1).sum(-1)  # (G, B)
        assert kept.unique().tolist() == [16 - size]


class Still(FlowMatchEulerDiscreteScheduler):
    """A scheduler that leaves the state as it is."""

    def step(self, model_output, timestep, sample, return_dict=True):
        return (sample,)


def test_each_sample_may_have_its_own_generator(net):
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    found = sample(net, generator=generators(1, 2))
    other = sample(net, generator=generators(1, 3))
    torch.testing.assert_close(found[0], other[0])
    assert not torch.allclose(found[1], other[1])


def test_perturbed_guidance_is_plain_guidance_where_nothing_is_perturbed(net):
    plain = sample(net, Guidance(scale=3))
    perturbed = sample(net, Guidance(scale=3, stg_scale=1.5))
    # rounding of another batch size, multiplied by sampling
    torch.testing.assert_close(perturbed, plain, rtol=1e-3, atol=1e-3)


def test_image_guidance_of_the_first_frame_is_plain_guidance(net):
    # without frames before, both passes without prompt agree: u + s (c - u) + 0
    plain = sample(net, Guidance(scale=3), frames=1)
    image = sample(net, Guidance(scale=3, image_scale=1.5), frames=1)
    torch.testing.assert_close(image, plain, rtol=1e-3, atol=1e-3)
    plain, image = sample(net, Guidance(scale=3)), sample(net, Guidance(scale=3, image_scale=1.5))
    assert not torch.allclose(image[:, :, 1], plain[:, :, 1], rtol=1e-2, atol=1e-2)


def test_guidance_that_is_always_truncated_is_none(net):
    torch.testing.assert_close(
        sample(net, Guidance(scale=3, trunc=2000)), sample(net, Guidance()), rtol=1e-3, atol=1e-3
    )


def test_sets_of_no_tokens_count_in_the_course_of_guidance(net, monkeypatch):
    asked = []
    monkeypatch.setattr(Guidance, "scale_at", lambda self, *at: asked.append(at) or 3.0)
    sample(net, frames=1, num_ar_steps=20)
    assert asked == [(step, 20) for step, size in enumerate(set_sizes(20, 16)) if size > 0]
    assert asked[0][0] > 0


def test_progress_counts_sets(net):
    counts = []
    sample(net, frames=3, latents=[torch.zeros(2, 4, 8, 8)], progress=counts.append)
    assert counts == [1] * 6


@pytest.mark.parametrize(("offset", "noises"), [(0, 1), (1, 2)])  # timesteps 500, 0 and 501, 1
def test_ddpm_draws_noise_in_its_steps_but_that_to_0(net, offset, noises):
    """Sets of no tokens draw nothing: of 20 sets of 16 tokens, 15 have some."""
    spent, wanted = (torch.Generator().manual_seed(7) for _ in range(2))
    scheduler = DDPMScheduler(steps_offset=offset)
    sample(net, frames=1, num_ar_steps=20, generator=spent, scheduler=scheduler)
    torch.rand(2, 16, 1, generator=wanted)
    for _ in range(15 * (1 + noises)):
        torch.randn(2, 4, 8, 8, generator=wanted)
    assert torch.equal(spent.get_state(), wanted.get_state())


def test_conditions_that_do_not_divide_into_passes(net):
    with pytest.raises(ValueError, match="cond has 3 rows"):
        generate(
            net,
            DDPMScheduler(),
            torch.zeros(3, 5, 32),
            num_frames=1,
            num_ar_steps=1,
            num_diffusion_steps=1,
            guidance=Guidance(scale=2),
            generator=None,
        )
