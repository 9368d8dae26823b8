# SPDX-License-Identifier: Apache-2.0
"""The two cache snippets of the training guide run as they stand, but for paths and device."""

import os
import re
import subprocess
import sys
from pathlib import Path

import codewithgpu
import numpy as np
import pytest
import torch

from diffnext.data import media
from diffnext.data.encoding import Encoder
from diffnext.data.records import open_reader
from diffnext.data.views import View
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora

ROOT = Path(__file__).parents[2]
IMAGES = """
import os, codewithgpu, torch, PIL.Image, numpy as np
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL

device, dtype = torch.device("cuda"), torch.float16
vae = AutoencoderKL.from_pretrained("/path/to/nova-d48w1024-sdxl1024/vae")
vae = vae.to(device=device, dtype=dtype).eval()

features = {"moments": "bytes", "caption": "string", "text": "string", "shape": ["int64"]}
_, writer = os.makedirs("./img_dataset"), codewithgpu.RecordWriter("./img_dataset", features)

img = PIL.Image.open("./assets/sample_image.jpg")
x = torch.as_tensor(np.array(img)[None, ...].transpose(0, 3, 1, 2)).to(device).to(dtype)
with torch.no_grad():
    x = vae.encode(x.sub(127.5).div(127.5)).latent_dist.parameters.cpu().numpy()[0]
example = {"caption": "long caption", "text": "short text"}
writer.write({"shape": x.shape, "moments": x.tobytes(), **example}), writer.close()
"""
VIDEOS = """
import os, codewithgpu, torch, decord, numpy as np
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora

device, dtype = torch.device("cuda"), torch.float16
vae = AutoencoderKLOpenSora.from_pretrained("/path/to/nova-d48w1024-osp480/vae")
vae = vae.to(device=device, dtype=dtype).eval()

features = {"moments": "bytes", "caption": "string", "text": "string", "shape": ["int64"], "flow": "float64"}
_, writer = os.makedirs("./vid_dataset"), codewithgpu.RecordWriter("./vid_dataset", features)

resize, crop_size, frame_ids = 480, (480, 768), list(range(0, 65, 2))
vid = decord.VideoReader("./assets/sample_video.mp4")
h, w = vid[0].shape[:2]
scale = float(resize) / float(min(h, w))
size = int(h * scale + 0.5), int(w * scale + 0.5)
y, x = (size[0] - crop_size[0]) // 2, (size[1] - crop_size[1]) // 2
vid = decord.VideoReader("./assets/sample_video.mp4", height=size[0], width=size[1])
vid = vid.get_batch(frame_ids).asnumpy()
vid = vid[:, y : y + crop_size[0], x : x + crop_size[1]]
x = torch.as_tensor(vid[None, ...].transpose((0, 4, 1, 2, 3))).to(device).to(dtype)
with torch.no_grad():
    x = vae.encode(x.sub(127.5).div(127.5)).latent_dist.parameters.cpu().numpy()[0]
example = {"caption": "long caption", "text": "short text", "flow": 5}
writer.write({"shape": x.shape, "moments": x.tobytes(), **example}), writer.close()
"""


def save_vae(cls, folder):
    """Save an autoencoder of the published layout, with 2 to 4 channels, as the snippets load it."""
    torch.manual_seed(0)
    sizes = {"block_out_channels": (2, 2, 4, 4), "norm_num_groups": 2, "layers_per_block": 1}
    if cls is AutoencoderKL:
        sizes["down_block_types"] = ("DownEncoderBlock2D",) * 4
        sizes["up_block_types"] = ("UpDecoderBlock2D",) * 4
    vae = cls(latent_channels=4, **sizes)
    vae.save_pretrained(folder)
    return vae.half().eval()


def run_snippet(snippet, folder):
    """Run a snippet in a folder that holds vae/ and assets/."""
    (folder / "assets").symlink_to(ROOT / "assets")
    code = re.sub(r"/path/to/nova-[\w-]+/vae", str(folder / "vae"), snippet)
    code = code.replace('torch.device("cuda")', 'torch.device("cpu")')
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def read_both(folder):
    """The only record of a folder, by codewithgpu and by diffnext; both agree."""
    dataset = codewithgpu.RecordDataset(str(folder))
    assert len(dataset) == 1
    theirs, ours = next(dataset), open_reader(folder)[0]
    assert bytes(theirs.pop("moments")) == bytes(ours["moments"])
    assert theirs == {key: value for key, value in ours.items() if key != "moments"}
    return ours


def encoded(vae, name, view):
    """Moments of a view, by the functions that a cache is built with."""
    [frames] = media.read(media.probe(str(ROOT / "assets" / name)), [view])
    return Encoder(vae, video=view.num_frames > 1)(frames[None])[0]


def test_pictures(tmp_path):
    vae = save_vae(AutoencoderKL, tmp_path / "vae")
    run_snippet(IMAGES, tmp_path)
    record = read_both(tmp_path / "img_dataset")
    assert record["shape"] == [8, 128, 128]
    assert (record["caption"], record["text"]) == ("long caption", "short text")
    moments = np.frombuffer(record["moments"], np.float16).reshape(record["shape"])
    np.testing.assert_array_equal(moments, encoded(vae, "sample_image.jpg", View(1024, 1024)))


def test_videos(tmp_path):
    pytest.importorskip("decord")
    vae = save_vae(AutoencoderKLOpenSora, tmp_path / "vae")
    run_snippet(VIDEOS, tmp_path)
    record = read_both(tmp_path / "vid_dataset")
    assert (record["shape"], record["flow"]) == ([8, 9, 60, 96], 5.0)
    moments = np.frombuffer(record["moments"], np.float16).reshape(record["shape"])
    # 17 frames are encoded at once and give 5 latents, whatever comes after
    expected = encoded(vae, "sample_video.mp4", View(480, 768, tuple(range(0, 34, 2))))
    np.testing.assert_array_equal(moments[:, :5], expected)
