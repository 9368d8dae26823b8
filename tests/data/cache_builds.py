# SPDX-License-Identifier: Apache-2.0
"""Builds of caches of noise, with a stand-in for the autoencoder, and what they must give."""

from dataclasses import fields
from itertools import count

import codewithgpu
import numpy as np
import PIL.Image

from diffnext.data import media
from diffnext.data.cache import build
from diffnext.data.cache_identity import MadeBy
from diffnext.data.cache_plan import make_plan
from diffnext.data.latents import Latents
from diffnext.data.sources import scan
from diffnext.data.view_rules import ViewRules
from diffnext.data.views import View

LATENTS = Latents(channels=4, time_stride=1, space_stride=8)
VIEW = View(32, 48)
RULES = ViewRules(sizes=(((32, 48),),))


def encode(frames):
    """Means of 8 x 8 pixels in place of moments: (B, 1, H, W, 3) to (B, 8, H / 8, W / 8)."""
    batch, _, height, width, _ = frames.shape
    blocks = frames.reshape(batch, height // 8, 8, width // 8, 8, 3).mean(axis=(2, 4))
    return np.tile(blocks.transpose(0, 3, 1, 2), (1, 3, 1, 1))[:, :8].astype(np.float16)


def interrupting(after, error=KeyboardInterrupt):
    """The stand-in for an autoencoder, which raises an error after so many batches; None: never."""
    calls = count()

    def encoder(frames):
        if next(calls) == after:
            raise error
        return encode(frames)

    return encoder


def write_picture(folder, name, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(f"Picture {name}. It is noise.")


def write_photos(folder):
    """Seven pictures of noise with their captions. Returns the folder."""
    folder.mkdir()
    for number in range(7):
        write_picture(folder, f"p{number}", number)
    return folder


def plan_of(listing, output, **changes):
    """A plan of other options than the usual; those of `MadeBy` among them."""
    made = {"vae": {"class": "Stub"}, "dtype": "float32"}
    made |= {f.name: changes.pop(f.name) for f in fields(MadeBy) if f.name in changes}
    options = {"rules": RULES, "latents": LATENTS, "workers": 0, **changes}
    return make_plan(listing, str(output), made_by=MadeBy(**made), **options)


def plan_for(folder, output, **changes):
    return plan_of(scan(str(folder)), output, **changes)


def run(folder, output, *, encoder=encode, batch_size=3, workers=0, **changes):
    """Plan and build; without workers, whose start takes longer than all the rest."""
    plan = plan_for(folder, output, **changes)
    return build(plan, encoder, batch_size=batch_size, workers=workers)


def records(output):
    """Caption -> moments, by codewithgpu; captions are unique."""
    dataset = codewithgpu.RecordDataset(str(output))
    found = {}
    for _ in range(len(dataset)):
        record = next(dataset)
        assert record["caption"] not in found
        moments = np.frombuffer(record["moments"], np.float16).reshape(record["shape"])
        found[record["caption"]] = moments
    return found


def expected(folder):
    found = {}
    for path in sorted(folder.glob("*.png")):
        [frames] = media.read(media.probe(str(path)), [VIEW])
        found[path.with_suffix(".txt").read_text()] = encode(frames[None])[0]
    return found


def assert_complete(folder, output):
    found, wanted = records(output), expected(folder)
    assert list(found) == list(wanted)  # in the order of the paths
    for caption in wanted:
        np.testing.assert_array_equal(found[caption], wanted[caption])
