# SPDX-License-Identifier: Apache-2.0
"""What decides the content of a cache besides its media, stated beside the records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffnext.data import media
from diffnext.data.latents import Latents
from diffnext.data.records import holds_records, read_identity
from diffnext.data.records.identity import LINEAGE
from diffnext.data.views import View
from diffnext.utils.trees import flatten

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

# What an autoencoder's class, by name, has for settings that are left out; may take seconds to answer.
Defaults = Callable[[str], Mapping[str, Any]]


def no_defaults(name: str) -> dict[str, Any]:
    """Of classes of which nothing is known."""
    return {}


@dataclass(frozen=True, kw_only=True)
class MadeBy:
    """What makes the records of a cache, besides their media.

    Args:
        vae: class, configuration and hash of the weights of the autoencoder.
        dtype: precision of the encoding.
        vae_defaults: for settings that its configuration or that of the cache leaves out.
        computed: fields that the build computes for media that do not have them, and how.
        text_encoder: what embeds captions; None: they are stored as texts.
    """

    vae: Mapping[str, Any]
    dtype: str
    vae_defaults: Defaults = no_defaults
    computed: Mapping[str, str] = field(default_factory=dict)
    text_encoder: Mapping[str, Any] | None = None


def make_identity(made_by: MadeBy, latents: Latents, names: Sequence[str]) -> dict[str, Any]:
    """State what all records of a cache agree on: what made them, and how, besides the media.

    Sizes and frames are not part of it: a cache may hold several, and each record's entry in the
    journal says its own.

    Args:
        names: fields of the records, besides their moments.
    """
    encoder = made_by.text_encoder
    return {
        "version": IDENTITY_VERSION,
        "vae": dict(made_by.vae),
        "normalisation": "raw",  # moments as encoded: neither shifted nor scaled
        "dtype": {"encode": made_by.dtype, "store": "float16"},
        "strides": {"time": latents.time_stride, "space": latents.space_stride},
        "rules": {"resize": media.RULE, **made_by.computed},
        "fields": list(names),
        **({} if encoder is None else {"text_encoder": dict(encoder)}),
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
    output: str, identity: Mapping[str, Any], vae_defaults: Defaults
) -> dict[str, Any]:
    """Refuse to add to a cache that was made in another way; a folder without records is free.

    Args:
        vae_defaults: for settings of the autoencoder that a configuration leaves out.

    Returns:
        The identity of the cache with what is added: of an autoencoder that encodes alike, what the
        cache says stays.

    Raises:
        ValueError: with each key that differs and both of its values.
    """
    if not holds_records(output):
        return dict(identity)
    held = read_identity(output)
    if held is None:
        raise ValueError(
            f"{output} holds records that this tool did not make; choose another --output"
        )
    if ("text_encoder" in held) != ("text_encoder" in identity):
        raise ValueError(f"{output} {_other_prompts(held)}")
    made = upgrade_identity(held)[0]
    lines = differences(*comparable(made, identity, vae_defaults), "the cache", "this build")
    if lines:
        raise ValueError(
            f"{output} was built in another way; choose another --output or the same options:\n"
            + "\n".join(lines)
        )
    return {**identity, "vae": made["vae"]}


def comparable(
    one: Mapping[str, Any], other: Mapping[str, Any], vae_defaults: Defaults
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two identities as `as_compared` has them.

    Settings that one leaves out have the defaults of its class where all that both state is the same;
    else what both state is enough to tell the two apart, and no class is asked.
    """
    both = as_compared(one), as_compared(other)
    ours, theirs = (_config(identity) for identity in both)
    if ours is None or theirs is None or ours.keys() == theirs.keys():
        return both
    classes = [identity["vae"].get("class", "") for identity in both]
    shared = ours.keys() & theirs.keys()
    if classes[0] == classes[1] and all(ours[key] == theirs[key] for key in shared):
        return tuple(as_compared(made, vae_defaults(classes[0])) for made in (one, other))
    return tuple(
        {
            **made,
            "vae": {**made["vae"], "config": {key: made["vae"]["config"][key] for key in shared}},
        }
        for made in both
    )


def as_compared(
    identity: Mapping[str, Any], vae_defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """An identity in which autoencoders that encode alike have the same settings.

    Those that are left out get the defaults of the class; those of scales and of the decoder go.
    """
    config = _config(identity)
    if config is None:
        return dict(identity)
    kept = {
        key: value
        for key, value in {**(vae_defaults or {}), **config}.items()
        if key not in NOT_OF_ENCODING and not key.startswith(("_", OF_DECODER))
    }
    return {**identity, "vae": {**identity["vae"], "config": kept}}


def _config(identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of the autoencoder; None: it is not said which one it is."""
    vae = identity.get("vae")
    config = vae.get("config", {}) if isinstance(vae, Mapping) else None
    return config if isinstance(config, Mapping) else None


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], name: str, other_name: str
) -> list[str]:
    """Each key on which two identities differ, with both values; lineages aside."""
    ours, theirs = (
        flatten({key: value for key, value in made.items() if key != LINEAGE})
        for made in (one, other)
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
