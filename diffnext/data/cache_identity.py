# SPDX-License-Identifier: Apache-2.0
"""What decides the content of a cache besides its media, stated beside the records."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffnext.data import media
from diffnext.data.journal import Journal, Progress, silent
from diffnext.data.prune import is_pending
from diffnext.data.records import STORAGES, open_reader, read_identity
from diffnext.data.records.identity import LINEAGE
from diffnext.data.records.layout import JOURNAL as WRITING
from diffnext.data.records.layout import METADATA, SAMPLES, index_names
from diffnext.data.view_rules import ViewRules
from diffnext.data.views import View
from diffnext.data.worklist import is_joining

IDENTITY_VERSION = 2

# Settings of an autoencoder that do not change what `encode` gives: moments are stored raw, training
# scales them, and the rest is of the decoder. Other weights than those stated are others all the same.
NOT_OF_ENCODING = (
    *("scaling_factor", "shift_factor", "latents_mean", "latents_std", "invert_scale_latents"),
    *("sample_size", "sample_height", "sample_width", "force_upcast"),
    *("out_channels", "up_block_types", "upsample_factor", "upsample_residual"),
    *("use_post_quant_conv", "timestep_conditioning"),
)
OF_DECODER = "decoder_"  # so begin others


@dataclass(frozen=True)
class Latents:
    """Sizes of an autoencoder: latent channels, frames and pixels that a latent stands for."""

    channels: int
    time_stride: int
    space_stride: int

    def shape(self, view: View) -> tuple[int, ...]:
        """Shape of the moments of a sample: (2C, H, W), (2C, T, H, W) for a video autoencoder."""
        space = (view.height // self.space_stride, view.width // self.space_stride)
        if self.time_stride == 1:
            return (2 * self.channels, *space)
        return (2 * self.channels, (view.num_frames - 1) // self.time_stride + 1, *space)

    def check(self, rules: ViewRules, multiple: int = 1) -> None:
        """Refuse sizes that the autoencoder cannot take.

        Args:
            multiple: latents that each side is a multiple of, for the patches of the network.

        Raises:
            ValueError: with the nearest sizes that it can.
        """
        for size in sorted({size for sizes in rules.sizes for size in sizes}):
            for name, value in zip(("height", "width"), size, strict=True):
                self._check_side(name, value, multiple * self.space_stride)
        for length in rules.num_frames:
            self._check_length(length)
        if rules.frame_stride < 1:
            raise ValueError(f"--frame-stride is {rules.frame_stride}, at least 1 is wanted")

    def _check_side(self, name: str, value: int, step: int) -> None:
        below = value // step * step
        if value != below or value <= 0:
            legal = [str(size) for size in (below, below + step) if size > 0]
            raise ValueError(
                f"--resolution: {name} {value} is no multiple of {step}; "
                f"nearest: {' or '.join(legal)}"
            )

    def _check_length(self, length: int) -> None:
        if length < 1:
            raise ValueError(f"--num-frames is {length}, at least 1 is wanted")
        if length > 1 and self.time_stride == 1:
            raise ValueError(
                f"--num-frames {length}: this autoencoder encodes pictures; give the "
                "--vae of a video model, or --num-frames 1"
            )
        extra = (length - 1) % self.time_stride
        if extra:
            below = length - extra
            raise ValueError(
                f"--num-frames {length} is not {self.time_stride} k + 1; "
                f"nearest: {below} or {below + self.time_stride}"
            )


def make_identity(
    vae: Mapping[str, Any],
    dtype: str,
    latents: Latents,
    names: Sequence[str],
    computed: Mapping[str, str],
    text_encoder: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """State what all records of a cache agree on: what made them, and how, besides the media.

    Sizes and frames are not part of it: a cache may hold several, and each record's entry in the
    journal says its own.

    Args:
        names: fields of the records, besides their moments.
        computed: those of them that the build computes where they are not given, and how.
        text_encoder: what made the embeddings that stand for captions; None: captions are texts.
    """
    embedded = {} if text_encoder is None else {"text_encoder": dict(text_encoder)}
    return {
        "version": IDENTITY_VERSION,
        "vae": dict(vae),
        "normalisation": "raw",  # moments as encoded: neither shifted nor scaled
        "dtype": {"encode": dtype, "store": "float16"},
        "strides": {"time": latents.time_stride, "space": latents.space_stride},
        "rules": {"resize": media.RULE, **computed},
        "fields": list(names),
        **embedded,
    }


def upgrade_identity(held: Mapping[str, Any]) -> tuple[dict[str, Any], View | None]:
    """The identity of a cache in the words of today, and the view of its records if all have one.

    Version 1 knew one size and one choice of frames a cache, and called them, with the rule, `cut`.
    """
    if held.get("version") != 1:
        return dict(held), None
    rest = {key: value for key, value in held.items() if key != "cut"}
    cut = dict(held["cut"])
    rules = {"resize": cut.pop("rule")}
    return {**rest, "version": IDENTITY_VERSION, "rules": rules}, View.from_state(cut)


def check_identity(
    output: str, identity: Mapping[str, Any], vae_defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Refuse to add to a cache that was made in another way; a folder without records is free.

    Args:
        vae_defaults: settings of the autoencoder's class, where a configuration leaves them out.

    Returns:
        The identity of the cache with what is added: of an autoencoder that encodes alike, what the
        cache says stays.

    Raises:
        ValueError: with each key that differs and both of its values.
    """
    if not (os.path.isdir(output) and _holds_records(output)):
        return dict(identity)
    held = read_identity(output)
    if held is None:
        raise ValueError(
            f"{output} holds records that this tool did not make; choose another --output"
        )
    if ("text_encoder" in held) != ("text_encoder" in identity):
        raise ValueError(f"{output} {_other_prompts(held)}")
    made = upgrade_identity(held)[0]
    both = (as_compared(one, vae_defaults) for one in (made, identity))
    lines = differences(*both, "the cache", "this build")
    if lines:
        raise ValueError(
            f"{output} was built in another way; choose another --output or the same options:\n"
            + "\n".join(lines)
        )
    return {**identity, "vae": made["vae"]}


def as_compared(
    identity: Mapping[str, Any], vae_defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """An identity in which autoencoders that encode alike have the same settings.

    Those that are left out get the defaults of the class; those of scales and of the decoder go.
    """
    vae = identity.get("vae")
    if not isinstance(vae, Mapping) or not isinstance(vae.get("config", {}), Mapping):
        return dict(identity)
    config = {**(vae_defaults or {}), **vae.get("config", {})}
    kept = {
        key: value
        for key, value in config.items()
        if key not in NOT_OF_ENCODING and not key.startswith(("_", OF_DECODER))
    }
    return {**identity, "vae": {**vae, "config": kept}}


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], name: str, other_name: str
) -> list[str]:
    """Each key on which two identities differ, with both values; lineages aside."""
    ours, theirs = (
        flat({key: value for key, value in made.items() if key != LINEAGE}) for made in (one, other)
    )
    return [
        f"  {key}: {name} has {ours.get(key)!r}, {other_name} {theirs.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]


def options_of(identity: Mapping[str, Any]) -> str:
    """The options that made a cache, besides autoencoder, sizes and choice of frames; words in
    capitals are the user's."""
    options = []
    if dtype := identity.get("dtype", {}).get("encode"):
        options.append(f"--dtype {dtype}")
    if "flow" in identity.get("rules", {}):
        options.append("--motion")
    if "text_encoder" in identity:
        options.append("--encode-prompts --text-model MODEL")
    return " ".join(options)


def open_journal(output: str, progress: Progress = silent) -> tuple[Journal, bool]:
    """The journal of a cache folder, and whether its last build was finished.

    Args:
        progress: wraps the lines of the journal, to show how far their reading is.

    Raises:
        ValueError: the journal or a shard is lost, or records were being dropped when a process was
            killed.
    """
    if is_pending(output) or is_joining(output):
        what = "dropped" if is_pending(output) else "joined"
        raise ValueError(
            f"{output} was interrupted while records were {what}; a build without --dry-run finishes "
            "that"
        )
    finished = os.path.exists(os.path.join(output, METADATA))
    if not finished:
        check_indexes(output)
    if not (os.path.isdir(output) and _holds_records(output)):
        return Journal(output, 0), True
    with warnings.catch_warnings():
        if not finished:
            warnings.simplefilter("ignore")  # to go on with such a folder is the purpose
        reader = open_reader(output)
    view = upgrade_identity(read_identity(output) or {})[1]
    reader.close()
    journal = Journal(output, len(reader), view, progress)
    if not finished and not os.path.exists(os.path.join(output, WRITING)):
        check_lines(output, len(reader))
    return journal, finished


def check_indexes(output: str) -> None:
    """Refuse shards that are not counted: the records behind them would get the lines of others.

    A killed writer leaves none: the text index is there before the first byte of the shard.
    """
    names = set(os.listdir(output)) if os.path.isdir(output) else set()
    for name in sorted(names):
        stem, ending = os.path.splitext(name)
        lost = ending == ".data" and f"{stem}.index" not in names
        if lost and os.path.getsize(os.path.join(output, name)):
            raise ValueError(
                f"{output} holds {name} and not {stem}.index, without which nobody knows its records; "
                "put it back from a copy, or choose another --output"
            )


def check_lines(output: str, records: int) -> None:
    """Refuse a folder without METADATA that has lost a shard from between others.

    A build in progress may have more lines than records, and says that it is one; dropped records
    leave gaps between the numbers of the shards.
    """
    with open(os.path.join(output, SAMPLES), "rb") as stream:
        lines = sum(1 for _ in stream)
    stems = [name.removesuffix(".index") for name in index_names(output)]
    has_gap = stems != [str(number).zfill(len(stems[-1])) for number in range(len(stems))]
    if lines > records and has_gap:
        raise ValueError(
            f"{output} holds {records} records, {SAMPLES} in it knows {lines}, and no build is in "
            "progress: a shard was lost; put it back from a copy, or choose another --output"
        )


def _other_prompts(held: Mapping[str, Any]) -> str:
    """What to say where a cache has embeddings and a build gives texts, or the other way round."""
    if "text_encoder" in held:
        return (
            f"holds prompts that were embedded by {held['text_encoder'].get('class')}; add "
            "--encode-prompts, with the --text-model of that build, or choose another --output"
        )
    return (
        "holds captions as texts; leave --encode-prompts out, and embed them into a folder beside it "
        "with `diffnext cache prompts`; or choose another --output"
    )


def _holds_records(path: str) -> bool:
    return any(STORAGES.get(name).detect(path) for name in STORAGES.names())


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, item in value.items():
        result.update(flat(item, f"{prefix}.{key}" if prefix else str(key)))
    return result
