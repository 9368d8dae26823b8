# SPDX-License-Identifier: Apache-2.0
"""The autoencoder of Open-Sora Plan: causal, tiled in time, fit for training."""

import inspect
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora

TINY = {
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
GOLDEN = Path(__file__).parents[2] / "parity" / "golden" / "opensora.safetensors"


def make():
    """A network whose weights follow from their names' order alone."""
    vae = AutoencoderKLOpenSora(**TINY).eval()
    generator = torch.Generator().manual_seed(11)
    for _, parameter in sorted(vae.named_parameters()):
        spread = torch.rand(parameter.shape, generator=generator) * 2 - 1
        parameter.data = spread * (3 / max(parameter[0].numel(), 4)) ** 0.5
    return vae


@pytest.fixture(scope="module")
def vae():
    return make().requires_grad_(False)


def video(frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, 16, 16, generator=generator) * 2 - 1


def encode(vae, x):
    return vae.encode(x).latent_dist.parameters


def test_defaults_are_open_sora_plan_1_2():
    """Hidden size 128 by 1, 2, 4, 4, two residual blocks, four channels; the scale of its latents."""
    defaults = inspect.signature(AutoencoderKLOpenSora.__init__).parameters
    wanted = {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "use_quant_conv": True,
    }
    assert {name: defaults[name].default for name in wanted} == wanted


def test_the_numbers_that_the_layers_of_the_original_gave(vae):
    """Taken when every recorded vector of the original was met to the last bit."""
    golden = load_file(GOLDEN)
    torch.testing.assert_close(encode(vae, video(33)), golden["moments33"], rtol=1e-4, atol=1e-5)
    decoded = vae.decode(golden["moments33"][:, :4]).sample
    torch.testing.assert_close(decoded[:, :, ::4], golden["decoded33"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("latents", [1, 2, 5, 6, 9, 10])
def test_any_number_of_latents_is_decoded(vae, latents):
    z = torch.randn(2, 4, latents, 2, 2)
    assert vae.decode(z).sample.shape == (2, 3, 4 * latents - 3, 16, 16)


@pytest.mark.parametrize("frames", [1, 5, 17, 21, 33, 37])
def test_frames_become_a_quarter_of_them_and_one(vae, frames):
    assert encode(vae, video(frames)).shape == (1, 8, (frames - 1) // 4 + 1, 2, 2)


def test_tiles_share_one_frame_and_keep_it_once(vae):
    """The later tile is what encoding its own 17 frames gives, without their first latent."""
    x = video(33)
    whole = encode(vae, x)
    torch.testing.assert_close(whole[:, :, :5], encode(vae, x[:, :, :17]))
    torch.testing.assert_close(whole[:, :, 5:], encode(vae, x[:, :, 16:])[:, :, 1:])


def test_decoded_tiles_share_one_latent(vae):
    z = torch.randn(1, 4, 9, 2, 2)
    whole = vae.decode(z).sample
    torch.testing.assert_close(whole[:, :, :17], vae.decode(z[:, :, :5]).sample)
    torch.testing.assert_close(whole[:, :, 17:], vae.decode(z[:, :, 4:]).sample[:, :, 1:])


def test_no_convolution_sees_a_later_frame(vae):
    """Layers that average over time (norms) aside, the past does not depend on the future."""
    conv, x = vae.encoder.down_blocks[2].resnets[0].conv1, torch.randn(1, 8, 6, 4, 4)
    changed = x.clone()
    changed[:, :, 4:] = 0
    assert torch.equal(conv(x)[:, :, :4], conv(changed)[:, :, :4])


def test_a_picture_is_a_video_of_one_frame(vae):
    x = video(1)
    assert torch.equal(encode(vae, x[:, :, 0]), encode(vae, x)[:, :, 0])
    z = torch.randn(2, 4, 2, 2)
    assert torch.equal(vae.decode(z).sample, vae.decode(z[:, :, None]).sample[:, :, 0])


def test_slicing_changes_nothing(vae):
    x = torch.cat([video(5), video(5, seed=1)])
    whole = encode(vae, x)
    vae.enable_slicing()
    sliced = encode(vae, x)
    vae.disable_slicing()
    torch.testing.assert_close(sliced, whole)


def test_a_number_of_frames_that_no_latents_stand_for_is_refused(vae):
    with pytest.raises(ValueError, match="18 frames; 4 k \\+ 1 are wanted: cut it to 17"):
        vae.encode(video(18))


def test_every_weight_learns():
    vae = make().train()
    output = vae(video(21))
    assert output.sample.shape == (1, 3, 21, 16, 16)
    posterior = vae.encode(video(21)).latent_dist
    (output.sample.square().mean() + posterior.kl().mean()).backward()
    still = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
    # a shift of all keys is the same for each key, so softmax takes it away
    assert all(".to_k.bias" in name for name in still)


def test_a_saved_folder_holds_everything(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    other = AutoencoderKLOpenSora.from_pretrained(tmp_path)
    assert torch.equal(encode(other, video(5)), encode(vae, video(5)))


def test_an_unknown_block_is_refused():
    with pytest.raises(ValueError, match="'Down'; DownEncoderBlock2D or"):
        AutoencoderKLOpenSora(**TINY, down_block_types=("Down",) * 4)
