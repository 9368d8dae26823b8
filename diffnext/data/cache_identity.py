# SPDX-License-Identifier: Apache-2.0
"""What decides the content of a cache besides its media, stated beside the records."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffnext.data import media
from diffnext.data.journal import Journal
from diffnext.data.media import Cut
from diffnext.data.records import STORAGES, open_reader, read_identity

IDENTITY_VERSION = 1


@dataclass(frozen=True)
class Latents:
    """Sizes of an autoencoder: latent channels, frames and pixels that a latent stands for."""

    channels: int
    time_stride: int
    space_stride: int

    def shape(self, cut: Cut) -> tuple[int, ...]:
        """Shape of the moments of a sample: (2C, H, W), (2C, T, H, W) for a video autoencoder."""
        space = (cut.height // self.space_stride, cut.width // self.space_stride)
        if self.time_stride == 1:
            return (2 * self.channels, *space)
        return (2 * self.channels, (cut.num_frames - 1) // self.time_stride + 1, *space)

    def check(self, cut: Cut) -> None:
        """Refuse sizes that the autoencoder cannot take.

        Raises:
            ValueError: with the nearest sizes that it can.
        """
        for name, value in (("height", cut.height), ("width", cut.width)):
            below = value // self.space_stride * self.space_stride
            if value != below or value <= 0:
                legal = [size for size in (below, below + self.space_stride) if size > 0]
                raise ValueError(
                    f"--resolution: {name} {value} is no multiple of {self.space_stride}; "
                    f"nearest: {' or '.join(map(str, legal))}"
                )
        if cut.num_frames < 1 or cut.frame_stride < 1:
            raise ValueError("--num-frames and --frame-stride must be at least 1")
        extra = (cut.num_frames - 1) % self.time_stride
        if extra:
            below = cut.num_frames - extra
            raise ValueError(
                f"--num-frames {cut.num_frames} is not {self.time_stride} k + 1; "
                f"nearest: {below} or {below + self.time_stride}"
            )
        if cut.num_frames > 1 and self.time_stride == 1:
            raise ValueError(
                f"--num-frames {cut.num_frames}: this autoencoder encodes pictures; give the "
                "--vae of a video model, or --num-frames 1"
            )


def make_identity(
    vae: Mapping[str, Any], dtype: str, cut: Cut, latents: Latents, names: Sequence[str]
) -> dict[str, Any]:
    """State what decides the content of a cache, besides the media."""
    return {
        "version": IDENTITY_VERSION,
        "vae": dict(vae),
        "normalisation": "raw",  # moments as encoded: neither shifted nor scaled
        "dtype": {"encode": dtype, "store": "float16"},
        "strides": {"time": latents.time_stride, "space": latents.space_stride},
        "cut": {**asdict(cut), "rule": media.RULE},
        "fields": list(names),
    }


def check_identity(output: str, identity: Mapping[str, Any]) -> None:
    """Refuse to add to a cache that was made in another way.

    Raises:
        ValueError: with each key that differs and both of its values.
    """
    held = read_identity(output)
    if held is None:
        if os.path.isdir(output) and _holds_records(output):
            raise ValueError(
                f"{output} holds records that this tool did not make; choose another --output"
            )
        return
    ours, theirs = _flat(identity), _flat(held)
    lines = [
        f"  {key}: the cache has {theirs.get(key)!r}, this build {ours.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
    if lines:
        raise ValueError(
            f"{output} was built in another way; choose another --output or the same options:\n"
            + "\n".join(lines)
        )


def open_journal(output: str) -> tuple[Journal, bool]:
    """The journal of a cache folder, and whether its last build was finished."""
    if not (os.path.isdir(output) and _holds_records(output)):
        return Journal(output, 0), True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # a reader warns of a folder that was not finished
        reader = open_reader(output)
    journal = Journal(output, len(reader))
    reader.close()
    return journal, not caught


def _holds_records(path: str) -> bool:
    return any(STORAGES.get(name).detect(path) for name in STORAGES.names())


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, item in value.items():
        result.update(_flat(item, f"{prefix}.{key}" if prefix else str(key)))
    return result
