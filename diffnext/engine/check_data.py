# SPDX-License-Identifier: Apache-2.0
"""Whether a dataset has what the network reads, in the shapes that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from diffnext.data.datasets import identity_of
from diffnext.data.parse import moments, moments_shape
from diffnext.data.records import DamagedRecord, Record, RecordReader
from diffnext.models.autoencoders.latent_scale import LatentConfig, std_of
from diffnext.pipelines.train_base import Expected
from diffnext.utils.moments import latent_channels, split_moments

STANDS_FOR = {"caption": ("caption", "text")}  # fields of which one is enough
LOOKED_AT = 8  # records, evenly spread, whose values are looked at
USUAL_STD = (1 / 3, 3.0)  # of normalised latents; one that is off by the scale is further away
USUAL_MEAN = 1.5

Shape = tuple[int, ...]  # (2C, T, H, W)


def check_fields(reader: RecordReader, reads: Sequence[str]) -> None:
    """Refuse a dataset without records, or that lacks a field.

    Raises:
        ValueError: with the fields that it has.
    """
    if not len(reader):
        raise ValueError(f"{reader.path} has no records")
    for field in reads:
        names = STANDS_FOR.get(field, (field,))
        if not any(name in reader.fields for name in names):
            raise ValueError(
                f"{reader.path} has no field {' or '.join(map(repr, names))}, which the pipeline reads; "
                f"its fields are {sorted(reader.fields)}"
            )


def misfits(reader: RecordReader, expected: Expected) -> dict[Shape, str]:
    """The shapes of a dataset that the network cannot take, each with the reason."""
    reasons = {shape: _reason(shape, expected) for shape in sorted(count_shapes(reader))}
    return {shape: reason for shape, reason in reasons.items() if reason}


def refusal(reader: RecordReader, misfits: Mapping[Shape, str], rebuild: str) -> str:
    """What to say of shapes that the network cannot take: how many records, and what helps."""
    counts = count_shapes(reader)
    lines = [
        f"  {counts[shape]} of {len(reader)} records are {list(shape)}: {reason}"
        for shape, reason in misfits.items()
    ]
    helps = [f"build the cache for this network: {rebuild}"]
    if sum(counts[shape] for shape in misfits) < len(reader):
        helps.append("or train on the others alone: TRAIN.OTHER_SHAPES skip")
    return "\n".join([f"{reader.path} does not fit the network:", *lines, *helps])


def count_shapes(reader: RecordReader) -> dict[Shape, int]:
    """How many records there are of each shape."""
    counts: dict[Shape, int] = {}
    for stored, members in reader.groups():
        shape = moments_shape(stored)  # (2C, H, W) and (2C, 1, H, W) are the same
        counts[shape] = counts.get(shape, 0) + (len(reader) if members is None else len(members))
    return counts


def _reason(shape: Shape, expected: Expected) -> str:
    channels, frames, size = latent_channels(shape[0]), shape[1], shape[2:]
    if expected.channels not in (None, channels):
        return f"moments of {channels} latent channels, the network takes {expected.channels}"
    if expected.size not in (None, size):
        wanted = f"{expected.size[0]} x {expected.size[1]}"
        return f"latents of {size[0]} x {size[1]}, the network takes {wanted}"
    if expected.frames == 1 and frames > 1:
        return f"videos of {frames} latent frames, the network takes pictures"
    return ""


def odd_lengths(reader: RecordReader, expected: Expected) -> list[str]:
    """Warnings of videos that are longer or shorter than those the network is made for."""
    if expected.frames in (None, 1):
        return []
    stride = (identity_of(reader, "moments") or {}).get("strides", {}).get("time")
    made_for = _length(expected.frames, stride)
    return [
        f"WARNING    {count} of {len(reader)} records of {reader.path} have {_length(shape[1], stride)}, "
        f"the network is made for {made_for}: positions in time are stretched to these"
        for shape, count in count_shapes(reader).items()
        if shape[1] not in (1, expected.frames)
    ]


def _length(latents: int, stride: int | None) -> str:
    """Latent frames of a video in words, with the frames that they stand for where the stride is known."""
    words = f"{latents} latent frames"
    return words if stride is None else f"{words} ({(latents - 1) * stride + 1} frames)"


def embedded_text(reader: RecordReader) -> bool:
    """Whether prompts are stored as embeddings, so that no text encoder is needed."""
    kinds = [reader.fields[name] for name in ("caption", "text") if name in reader.fields]
    return bool(kinds) and isinstance(kinds[0], Mapping)


def look(reader: RecordReader) -> list[Record]:
    """A few records, evenly spread; damaged ones are passed over, as it is the loader's to tell of them.

    Raises:
        DamagedRecord: all of them are.
    """
    picked = np.linspace(0, len(reader) - 1, min(len(reader), LOOKED_AT)).astype(int)
    records = []
    for index in picked.tolist():
        try:
            records.append(reader[index])
        except DamagedRecord as error:
            last = error
    if not records:
        raise last
    return records


def check_prompts(reader: RecordReader, records: Sequence[Record], expected: Expected) -> list[str]:
    """Compare embedded prompts with what the network reads.

    Returns:
        A warning where some are longer and will be cut.

    Raises:
        ValueError: another width.
    """
    if not embedded_text(reader) or expected.text_width is None:
        return []
    shapes = [record["caption" if "caption" in record else "text"]["shape"] for record in records]
    wrong = next((shape[-1] for shape in shapes if shape[-1] != expected.text_width), None)
    if wrong is not None:
        raise ValueError(
            f"{reader.path} has prompt embeddings of width {wrong}, the network takes "
            f"{expected.text_width}; embed the prompts with the text encoder of this model"
        )
    long = [
        shape[0] for shape in shapes if expected.text_length and shape[0] > expected.text_length
    ]
    if not long:
        return []
    return [
        f"WARNING    {len(long)} of {len(shapes)} prompts of {reader.path} that were looked at have "
        f"up to {max(long)} tokens; the network reads the first {expected.text_length}"
    ]


def check_labels(reader: RecordReader, records: Sequence[Record], expected: Expected) -> None:
    """Refuse labels that the network has no class for, such as those that count from 1."""
    if expected.classes is None or "label" not in reader.fields:
        return
    wrong = [record["label"] for record in records if not 0 <= record["label"] < expected.classes]
    if wrong:
        raise ValueError(
            f"{reader.path} has records with label {wrong[0]}; the network has the classes 0 to "
            f"{expected.classes - 1}"
        )


def latent_level(
    records: Sequence[Record], vae_config: Mapping[str, object]
) -> tuple[float, float]:
    """Mean and standard deviation of the latents of some records as the network gets them.

    The deviation counts that of the posterior in: E[var] + Var[mean].
    """
    scale = LatentConfig(vae_config)
    means, squares = [], []
    for record in records:
        parameters = torch.from_numpy(moments(record).copy()).float()
        mean, log_variance = (part.unsqueeze(0) for part in split_moments(parameters))
        zero = scale.scale_(torch.zeros_like(mean))
        noise = scale.scale_(std_of(log_variance)) - zero
        mean = scale.scale_(mean)
        means.append(mean.mean().item())
        squares.append((mean.square() + noise.square()).mean().item())
    mean = float(np.mean(means))
    return mean, float(np.sqrt(max(np.mean(squares) - mean**2, 0.0)))


def describe_level(reader: RecordReader, records: Sequence[Record], mean: float, std: float) -> str:
    """The level of latents in words, a warning where it is far from 0 and 1."""
    found = f"mean {mean:.2f}, std {std:.2f} after normalisation ({len(records)} records)"
    low, high = USUAL_STD
    if low <= std <= high and abs(mean) <= USUAL_MEAN:
        return f"latents    {found}"
    return (
        f"WARNING    latents of {reader.path} have {found}, far from 0 and 1: is the scale in the "
        "autoencoder's config.json that of the moments, and are these raw?"
    )
