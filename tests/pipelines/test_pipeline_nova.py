# SPDX-License-Identifier: Apache-2.0
"""Arguments of the sampling pipelines: each by a second way to the same result."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from diffnext.pipelines.nova.prompts import encode_prompts
from tests.pipelines import tiny

FEW = {"num_inference_steps": 2, "num_diffusion_steps": 2}
LATENT = FEW | {"output_type": "latent"}


@pytest.fixture(scope="module")
def t2i():
    return tiny.t2i()


@pytest.fixture(scope="module")
def t2v():
    return tiny.t2v()


@pytest.fixture(scope="module")
def c2i():
    return tiny.c2i()


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators[0] if len(seeds) == 1 else generators


def images(pipe, prompt, *seeds, **options):
    return pipe(prompt, generator=seeded(*seeds), **(LATENT | options)).images


def assert_near(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)  # sums in another order


def states(pipe, prompts):
    return encode_prompts(pipe.tokenizer, pipe.text_encoder, prompts, 12)


def test_embeddings_stand_for_prompts(t2i):
    prompts = [
        "a red cat",
        "two birds on a mat in the rain, far from all other birds",
    ]  # one is cut
    wanted = images(t2i, prompts, 1)
    assert_near(
        t2i(prompt_embeds=states(t2i, prompts), generator=seeded(1), **LATENT).images, wanted
    )
    mixed = [prompts[0], states(t2i, prompts)[1].numpy()]
    assert_near(images(t2i, mixed, 1), wanted)
    assert not torch.allclose(images(t2i, ["a red cat", "a cow"], 1)[1], wanted[1])


def test_no_negative_prompt_is_the_empty_one(t2i):
    wanted = images(t2i, "a red cat", 1)
    assert_near(images(t2i, "a red cat", 1, negative_prompt=""), wanted)
    assert_near(images(t2i, "a red cat", 1, negative_prompt=[""]), wanted)
    other = images(t2i, "a red cat", 1, negative_prompt="blue")
    assert not torch.allclose(other, wanted)


def test_the_prompt_as_negative_prompt_undoes_guidance(t2i):
    found = images(t2i, "a red cat", 1, negative_prompt="a red cat", guidance_scale=7.0)
    assert_near(found, images(t2i, "a red cat", 1, guidance_scale=1.0))


def test_samples_of_a_prompt_are_neighbours(t2i):
    found = images(t2i, ["a red cat", "two birds"], 1, num_images_per_prompt=2)
    repeated = ["a red cat", "a red cat", "two birds", "two birds"]
    assert_near(found, images(t2i, repeated, 1))
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("kind", ["t2i", "t2v"])
def test_a_sample_with_its_own_generator_does_not_depend_on_its_neighbours(kind, request):
    pipe = request.getfixturevalue(kind)
    both = images(pipe, ["a red cat", "two birds"], 1, 2)
    assert_near(both[0], images(pipe, "a red cat", 1)[0])
    assert_near(both[1], images(pipe, "two birds", 2)[0])


def test_one_frame_is_a_picture_in_every_type(t2i):
    pil, array, tensor = (
        t2i("a red cat", generator=seeded(1), **FEW, output_type=kind).images
        for kind in ("pil", "np", "pt")
    )
    assert isinstance(pil[0], Image.Image)
    assert array.shape == (1, 32, 32, 3) and array.dtype == np.uint8
    assert np.array_equal(np.asarray(pil[0]), array[0])
    assert tensor.shape == (1, 3, 32, 32)
    assert images(t2i, "a red cat", 1).shape == (1, 4, 1, 4, 4)


def test_a_picture_is_also_a_video_of_one_frame(t2v):
    output = t2v("a red cat", generator=seeded(1), **FEW)
    assert np.array_equal(output.frames[0, 0], np.asarray(output.images[0]))
    tensor = t2v("a red cat", generator=seeded(1), **FEW, output_type="pt")
    assert tensor.frames.shape == (1, 3, 1, 32, 32)


def test_latent_frames_become_four_frames_each(t2v):
    output = t2v("a red cat", generator=seeded(1), max_latent_length=3, **FEW)
    assert output.frames.shape == (1, 9, 32, 32, 3)
    assert output.frames.dtype == np.uint8


def test_frames_that_are_given_are_kept(t2v):
    first = torch.randn(1, 4, 4, 4)
    forms = (first, [first], first[:, :, None])
    found = [
        t2v("a cat", generator=seeded(1), max_latent_length=2, latents=form, **LATENT).frames
        for form in forms
    ]
    for one in found:
        assert torch.equal(one[:, :, 0], first)
        assert_near(one, found[0])


def test_a_picture_is_the_first_frame(t2v):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    options = LATENT | {"max_latent_length": 2}
    found = t2v(["a cat", "a dog"], image=image, generator=seeded(1, 2), **options).frames
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        posterior = t2v.vae.encode(pixels).latent_dist
    for i, generator in enumerate(seeded(1, 2)):
        noise = torch.randn(1, 4, 4, 4, generator=generator)
        wanted = t2v.vae.scale_(posterior.mean + posterior.std * noise)
        assert_near(found[i, :, 0], wanted[0])
    resized = Image.fromarray(image).resize((90, 64))
    assert t2v("a cat", image=resized, **options).frames.shape == (1, 4, 2, 4, 4)


def test_samples_of_a_prompt_have_its_picture(t2v):
    pictures = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    options = LATENT | {"max_latent_length": 2, "num_images_per_prompt": 2}
    found = t2v(["a cat", "a dog"], image=pictures, generator=seeded(1, 1, 1, 1), **options).frames
    first = found[:, :, 0]
    assert_near(first[0], first[1])
    assert_near(first[2], first[3])
    assert not torch.allclose(first[0], first[2], rtol=1e-2, atol=1e-2)


def test_an_autoencoder_of_pictures_decodes_videos_frame_by_frame(t2i):
    latents = torch.randn(2, 4, 3, 4, 4)
    found = t2i.decode_latents(latents, 2)
    assert found.shape == (2, 3, 3, 32, 32)
    for t in range(3):
        assert_near(found[:, :, t], t2i.decode_latents(latents[:, :, t : t + 1], 2))


def test_motion_is_a_condition_of_videos(t2v):
    wanted = images(t2v, ["a cat", "a cat"], 1, 1, motion_flow=[5.0, 9.0])
    assert_near(images(t2v, "a cat", 1, motion_flow=9.0)[0], wanted[1])
    assert not torch.allclose(wanted[0], wanted[1])


def test_videos_are_of_12_frames_a_second_and_move_with_and_without_prompt(t2v):
    seen = []
    hook = t2v.transformer.motion_embed.register_forward_pre_hook(lambda _, args: seen.extend(args))
    images(t2v, ["a cat", "a dog"], 1, motion_flow=[3.0, 8.0], num_images_per_prompt=2)
    hook.remove()
    assert [one.tolist() for one in seen] == [[3, 3, 8, 8] * 2, [12] * 8]


def test_decoding_in_parts_changes_nothing(t2i):
    options = FEW | {"output_type": "pt"}
    prompts = ["a cat", "a dog", "a cow"]
    found = [
        t2i(prompts, generator=seeded(1), vae_batch_size=size, **options).images for size in (1, 2)
    ]
    assert_near(*found)


def test_latents_are_unscaled_before_they_take_the_type_of_the_autoencoder(monkeypatch):
    pipe = tiny.t2i()
    pipe.vae.bfloat16()
    seen, latents = [], torch.randn(1, 4, 1, 4, 4)
    decode = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda z: seen.append(z) or decode(z))
    pipe.decode_latents(latents, 1)
    assert torch.equal(seen[0], (latents[:, :, 0] / 0.18215).bfloat16())


def test_classes_are_conditions(c2i):
    found = images(c2i, [3, 7], 1, 2)
    assert_near(images(c2i, 7, 2), found[1:])
    assert not torch.allclose(images(c2i, 8, 2), found[1:])


def test_the_row_after_the_last_class_stands_for_no_class(c2i):
    seen = []
    hook = c2i.transformer.label_embed.register_forward_pre_hook(lambda _, args: seen.extend(args))
    images(c2i, [3, 7], 1)
    hook.remove()
    assert [one.tolist() for one in seen] == [[3, 7, 1000, 1000]]


def test_offloading_brings_each_network_in_turn_and_changes_nothing():
    pipe = tiny.t2v()
    options = {"max_latent_length": 2, **FEW, "output_type": "pt"}
    wanted = pipe("a cat", generator=seeded(1), **options).frames
    pipe.enable_model_cpu_offload(device="cpu")
    order = []
    for user_hook in pipe._all_hooks:
        user_hook.hook.pre_forward = watched(user_hook.hook.pre_forward, order)
    assert_near(pipe("a cat", generator=seeded(1), **options).frames, wanted)
    assert [name for i, name in enumerate(order) if name != order[i - 1]] == [
        "PhiEncoderModel",
        "NOVATransformer3DModel",
        "AutoencoderKLOpenSora",
    ]


def watched(pre_forward, order):
    def call(module, *args, **kwargs):
        order.append(type(module).__name__)
        return pre_forward(module, *args, **kwargs)

    return call


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output_type": "jpg"}, "output_type is 'jpg'"),
        ({"flow_shift": 3.0}, "DDPMScheduler is no flow scheduler"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt has 2 entries for 1 prompts"),
        ({"latents": torch.zeros(1, 4, 3, 3)}, r"wanted|is wanted"),
        ({"latents": torch.zeros(1, 4, 2, 4, 4)}, "max_latent_length is 1"),
        ({"generator": [torch.Generator()] * 2}, "2 entries for 1 samples"),
        ({"prompt_embeds": torch.zeros(1, 3, 64)}, "one of prompt and prompt_embeds"),
        ({"image_guidance_scale": 1.0, "spatiotemporal_guidance_scale": 1.0}, "exclude"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; a whole number from 1 up"),
        ({"num_diffusion_steps": 2.0}, "num_diffusion_steps is 2.0"),
        ({"max_latent_length": -1}, "max_latent_length is -1"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"vae_batch_size": 0}, "vae_batch_size is 0"),
        ({"guidance_scale": math.nan}, "scale of guidance is nan"),
        ({"generator": 7}, "generator is 7"),
        ({"prompt": 7}, "prompt is 7; a text"),
        ({"prompt": ["a cat", None]}, "prompt 1 is None; a text or an array"),
        ({"latents": np.zeros((1, 4, 4, 4))}, r"latents 0 have shape \(4, 4, 4\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(t2i, options, said):
    with pytest.raises(ValueError, match=said):
        t2i(**({"prompt": "a cat"} | FEW | options))


@pytest.mark.parametrize("shift", [0, -1, math.inf])
def test_a_shift_that_leaves_no_schedule_is_refused(t2v, shift):
    with pytest.raises(ValueError, match=r"flow_shift is .* above 0 is wanted"):
        t2v("a cat", **FEW, flow_shift=shift)


def test_a_shift_is_that_of_one_call(t2v):
    shifts = (None, 3.0, None)
    plain, shifted, again = (
        images(t2v, "a cat", 1, num_diffusion_steps=3, flow_shift=shift) for shift in shifts
    )
    assert not torch.allclose(shifted, plain, rtol=1e-2, atol=1e-2)
    assert_near(again, plain)


def test_classes_that_do_not_exist_are_refused(c2i):
    with pytest.raises(ValueError, match=r"\[1000\]; 0 to 999"):
        c2i([3, 1000], **FEW)
    for prompt in ("3", [1.5], None):
        with pytest.raises(ValueError, match="a class or a list of classes is wanted"):
            c2i(prompt, **FEW)


def test_classes_may_be_numbers_of_any_kind(c2i):
    wanted = images(c2i, [3, 4], 1)
    for prompt in (np.array([3, 4]), torch.tensor([3, 4])):
        torch.testing.assert_close(images(c2i, prompt, 1), wanted, rtol=0, atol=0)


def test_a_model_of_another_kind_is_refused(t2i, c2i):
    texts, classes = type(t2i), type(c2i)
    with pytest.raises(ValueError, match="no text_embed: it was made for NOVAC2IPipeline"):
        texts(c2i.vae, c2i.transformer, c2i.scheduler, t2i.text_encoder, t2i.tokenizer)("a", **FEW)
    with pytest.raises(ValueError, match="no label_embed: it was made for NOVAPipeline"):
        classes(t2i.vae, t2i.transformer, t2i.scheduler)(3, **FEW)


def test_a_text_without_text_encoder_is_refused(t2i):
    pipe = tiny.finished(type(t2i)(t2i.vae, t2i.transformer, t2i.scheduler))
    embeds = states(t2i, ["a red cat"])
    assert_near(
        pipe(prompt_embeds=embeds, generator=seeded(1), **LATENT).images,
        images(t2i, "a red cat", 1),
    )
    with pytest.raises(ValueError, match="no text encoder is loaded"):
        pipe("a red cat", **FEW)
