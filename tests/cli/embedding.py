# SPDX-License-Identifier: Apache-2.0
"""Builds of caches whose prompts are embedded, and damage to them."""

import numpy as np
import PIL.Image

from diffnext.cli import build_cache
from diffnext.data.records import open_reader

LENGTH = 12  # tokens
CAPTIONS = {  # by picture; the long ones have more tokens than the network reads
    "a": "A cat. It sits.",
    "b": "A dog.",
    "c": "A cat. It sits.",
    "d": "two birds on a mat and a red cat on a mat and two birds",
}


def add_picture(folder, name, caption):
    pixels = np.random.default_rng(ord(name)).integers(0, 255, (70, 70, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(caption)


def build(photos, output, model, *options, resolution="64", code=0):
    command = ["--input", str(photos), "--output", str(output), "--vae", str(model)]
    command += ["--resolution", resolution, "--workers", "0", "--device", "cpu", *options]
    assert build_cache.main(command) == code


def flip_in(cache, number, part):
    """Change a byte amid these bytes of a record."""
    reader = open_reader(cache)
    at = int(reader.index.offset[number]) + reader.raw(number)[0].index(part) + len(part) // 2
    data = bytearray((cache / "00000.data").read_bytes())
    data[at] ^= 1
    (cache / "00000.data").write_bytes(data)


def files_of(cache):
    return {path.name: path.read_bytes() for path in cache.iterdir()}
