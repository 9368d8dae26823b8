# SPDX-License-Identifier: Apache-2.0
"""The sampling pipelines draw the pictures and videos of the original.

A network with random weights under guidance multiplies rounding: weights changed by 1e-7 change the
first frame by up to 8e-5 of its greatest value, the second by 8e-4, the third by 9e-3. Tolerances are
a few times that; later frames are compared once more with the recorded frames before them given,
where rounding starts anew.
"""

from collections.abc import Sequence

import pytest
import torch

from diffnext.models.guidance_scaler import Guidance
from diffnext.models.transformers.generation_3d import generate, set_sizes
from diffnext.pipelines import NOVAC2IPipeline, NOVAPipeline
from tests.parity import recorded
from tests.parity.recorded import assert_near

TOLERANCES = (4e-4, 4e-3, 3e-2)  # of the first, second and third frame
PICTURES = ["a red cat on a mat", "two birds"]
VIDEOS = ["a red cat", "two birds"]
STEPS = {"num_inference_steps": 4, "num_diffusion_steps": 4}
CALLS = {
    ("t2i", "gen.cfg5"): {"num_diffusion_steps": 5, "guidance_scale": 5},
    ("t2i", "gen.nocfg"): {"num_inference_steps": 3, "guidance_scale": 1},
    ("t2i", "gen.trunc_renorm"): {
        "num_diffusion_steps": 5,
        "guidance_scale": 7,
        "guidance_trunc": 300,
        "guidance_renorm": 0.5,
    },
    ("t2v", "gen.video3"): {"max_latent_length": 3, "guidance_scale": 5, "motion_flow": 5},
    ("t2v", "gen.image"): {"max_latent_length": 1, "guidance_scale": 5, "motion_flow": 5},
    ("t2v", "gen.motion8"): {"max_latent_length": 2, "guidance_scale": 3, "motion_flow": 8},
    ("t2v", "gen.shift3"): {
        "max_latent_length": 2,
        "num_diffusion_steps": 6,
        "guidance_scale": 3,
        "flow_shift": 3,
    },
    ("t2v", "gen.stg"): {
        "max_latent_length": 2,
        "guidance_scale": 3,
        "spatiotemporal_guidance_scale": 1,
    },
    ("t2v", "gen.imgcfg"): {
        "max_latent_length": 2,
        "guidance_scale": 3,
        "image_guidance_scale": 1.5,
    },
    ("c2i", "gen.cfg5"): {"num_diffusion_steps": 5, "guidance_scale": 5},
    ("c2i", "gen.mincfg"): {
        "num_diffusion_steps": 5,
        "guidance_scale": 5,
        "min_guidance_scale": 1.5,
    },
}
PROMPTS = {"t2i": PICTURES, "t2v": VIDEOS, "c2i": [3, 7]}


@pytest.fixture(scope="module")
def pipes():
    """Loaded once for the module, by name."""
    loaded = {}

    def get(name):
        if name not in loaded:
            cls = NOVAC2IPipeline if name == "c2i" else NOVAPipeline
            loaded[name] = cls.from_pretrained(recorded.folder(name))
            loaded[name].set_progress_bar_config(disable=True)
        return loaded[name]

    return get


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def sample(pipe, prompts, **options):
    output = pipe(prompts, generator=seeded(), **(STEPS | options))
    return output.images if "images" in output else output["frames"]


def assert_frames_near(found, wanted):
    for frame, tolerance in zip(range(wanted.shape[2]), TOLERANCES, strict=False):
        assert_near(found[:, :, frame], wanted[:, :, frame], tolerance)


@pytest.mark.parametrize(("name", "vector"), CALLS)
def test_latents(pipes, name, vector):
    found = sample(pipes(name), PROMPTS[name], output_type="latent", **CALLS[name, vector])
    assert_frames_near(found, recorded.vectors(name)[vector])


def test_the_shift_of_one_call_is_forgotten_by_the_next(pipes):
    pipe, options = pipes("t2v"), CALLS["t2v", "gen.image"]
    sample(pipe, VIDEOS[:1], flow_shift=3.0, num_inference_steps=1)
    found = sample(pipe, VIDEOS, output_type="latent", **options)
    assert_frames_near(found, recorded.vectors("t2v")["gen.image"])


def test_pixels(pipes):
    found = sample(pipes("t2i"), PICTURES, output_type="np", **CALLS["t2i", "gen.cfg5"])
    wanted = recorded.vectors("t2i")["gen.uint8"].numpy()
    assert found.dtype == wanted.dtype
    assert abs(found.astype(int) - wanted).max() <= 1


def test_a_video_from_a_picture(pipes):
    vectors = recorded.vectors("t2v")
    options = STEPS | {"max_latent_length": 3, "guidance_scale": 5, "output_type": "latent"}
    image = vectors["i2v.image"].numpy()
    found = pipes("t2v")(VIDEOS[:1], image=image, generator=seeded(9), **options).frames
    wanted = vectors["gen.i2v"]
    assert_near(found[:, :, 0], wanted[:, :, 0], 1e-5)
    assert_frames_near(found, wanted)


class Given(Sequence):
    """Recorded frames; taking one draws the numbers that sampling it would have drawn."""

    def __init__(self, frames, draws, generator):
        self.frames, self.draws, self.generator = frames, draws, generator

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        for _ in range(self.draws):
            torch.randn(self.frames[index].shape, generator=self.generator)
        return self.frames[index]


@pytest.mark.parametrize("known", [1, 2])
def test_a_later_frame_after_the_recorded_ones(pipes, known):
    pipe, wanted = pipes("t2v"), recorded.vectors("t2v")["gen.video3"]
    guidance, generator = Guidance(scale=5.0), seeded()
    cond = pipe._conditions(VIDEOS, None, 5.0, guidance, repeats=1)
    sets = sum(size > 0 for size in set_sizes(4, 16))
    found = generate(
        pipe.transformer,
        pipe.sampler(),
        cond,
        num_frames=3,
        num_ar_steps=4,
        num_diffusion_steps=4,
        guidance=guidance,
        generator=generator,
        latents=Given(list(wanted[:, :, :known].unbind(2)), sets, generator),
    )
    assert_near(found[:, :, known], wanted[:, :, known], 4e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["t2i", "t2v", "c2i"])
def test_half_precision(name, dtype):
    cls = NOVAC2IPipeline if name == "c2i" else NOVAPipeline
    pipe = cls.from_pretrained(recorded.folder(name), torch_dtype=dtype, trust_remote_code=True)
    assert pipe.transformer.dtype == pipe.vae.dtype == dtype
    pipe.set_progress_bar_config(disable=True)
    image = sample(pipe, PROMPTS[name][:1], output_type="np")  # CPUs are slow at it
    assert image.shape == (1, 64, 64, 3)
    assert image.std() > 1  # not one grey


def test_a_saved_pipeline_draws_the_same(pipes, tmp_path):
    pipe = pipes("t2v")
    pipe.save_pretrained(tmp_path)
    # files like these stand in published folders; loading one would run it
    for part, module in (("vae", "autoencoders.autoencoder_kl_opensora"), ("transformer", "x")):
        (tmp_path / part / f"diffnext.models.{module}.py").write_text("raise SystemExit('it ran')")
    other = NOVAPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    options = {"max_latent_length": 2, "output_type": "latent", "disable_progress_bar": True}
    found, wanted = (sample(one, VIDEOS, **options) for one in (other, pipe))
    assert_frames_near(found, wanted)
    assert other.scheduler.config["_noise_class_name"] == "FlowMatchEulerDiscreteScheduler"
