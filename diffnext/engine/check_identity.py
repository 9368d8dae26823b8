# SPDX-License-Identifier: Apache-2.0
"""Whether a cache was made by the autoencoder and the text encoder of the model that trains on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffnext.data.cache_identity import comparable, options_of
from diffnext.data.datasets import identity_of
from diffnext.data.records import RecordReader
from diffnext.engine.component_files import has_weights, read_config
from diffnext.models.autoencoders.kinds import class_defaults
from diffnext.models.autoencoders.loading import class_name, hash_weights, strides_of
from diffnext.models.text_encoders.loading import describe_text_encoder
from diffnext.pipelines.train_base import Expected


def check_autoencoder(reader: RecordReader, vae: Path, expected: Expected) -> str:
    """Compare what a cache states of its moments with the autoencoder of the model.

    What is cheap goes first; the weights are hashed when all else agrees.

    Args:
        vae: folder of the model's autoencoder. Without weights there, those are not compared.
        expected: what the network takes, for the command that builds the cache again.

    Returns:
        What was compared, in words; it begins with WARNING where something could not be.

    Raises:
        ValueError: another autoencoder, or moments in another state than raw float16; with both
            values and what to do.
    """
    config = _vae_config(vae)
    identity = identity_of(reader, "moments")
    if identity is None:
        return (
            f"WARNING    {reader.path} does not state what made it: autoencoder, normalisation, "
            "resize rule and text encoder cannot be compared with the model"
        )
    differs = _state_differences(identity)
    if "vae" in identity:
        differs += _vae_differences(identity, vae, config)
    elif not differs:
        return _not_stated(reader, identity)
    stated = identity.get("vae", {}).get("weights_sha256")
    found = None
    if not differs and stated is not None and has_weights(vae):
        found = hash_weights(vae)
        if found != stated:
            differs = [_difference("vae.weights_sha256", stated, found)]
    if differs:
        raise ValueError(_refusal(reader, differs, vae, expected))
    if found is None:
        missing = f"{vae} has none" if stated is not None else "the cache does not state them"
        return (
            f"WARNING    {reader.path}: class and configuration of the autoencoder are the model's; "
            f"weights could not be compared, {missing}"
        )
    name = identity["vae"].get("class", "autoencoder")
    return f"cache      {reader.path} was made by the model's {name}, weights {found[:12]}"


def check_text_encoder(reader: RecordReader, folder: Path, text_length: int | None = None) -> str:
    """Compare what a cache states of its prompt embeddings with the text encoder of the model.

    Args:
        text_length: tokens that the network reads; None: not known.

    Returns:
        What was compared, in words; it begins with WARNING where something could not be.

    Raises:
        ValueError: another text encoder, with both values and what to do.
    """
    field = "caption" if "caption" in reader.fields else "text"
    stated = (identity_of(reader, field) or {}).get("text_encoder")
    if not isinstance(stated, Mapping):
        return f"WARNING    {reader.path} does not state which text encoder made its embeddings"
    if not (folder / "config.json").is_file():
        return f"WARNING    embeddings of {reader.path} are not compared: there is no {folder}"
    found = describe_text_encoder(folder)
    differs = [
        _difference(f"text_encoder.{key}", stated[key], found[key])
        for key in found
        if key in stated and found[key] is not None and stated[key] != found[key]
    ]
    if differs:
        raise ValueError(
            f"prompt embeddings of {reader.path} were made by another text encoder than {folder}:\n"
            + "\n".join(differs)
            + "\nembed the prompts with that of the model, or give the one that made them: "
            "PIPELINE.MODULES.text_encoder FOLDER"
        )
    cut = stated.get("max_length")
    if None not in (cut, text_length) and cut < text_length:
        return (
            f"WARNING    prompts of {reader.path} were cut at {cut} tokens by a model that reads no "
            f"more; this network reads {text_length}"
        )
    return f"cache      prompts of {reader.path} were embedded by the model's text encoder"


def _not_stated(reader: RecordReader, identity: Mapping[str, Any]) -> str:
    imported = identity.get("imported", {})
    layout = imported.get("layout", "other software")
    unknown = ", ".join(imported.get("unknown", ["vae"]))
    return (
        f"WARNING    {reader.path} was imported from {layout} and does not state {unknown}; this cannot be "
        "compared with the model"
    )


def _vae_config(vae: Path) -> dict[str, Any]:
    try:
        return read_config(vae)
    except ValueError as error:
        raise ValueError(
            f"{error}; the autoencoder's holds the scale of the latents. Name the folder of the one "
            "that made the cache: PIPELINE.MODULES.vae FOLDER"
        ) from error


def _state_differences(identity: Mapping[str, Any]) -> list[str]:
    """What training takes for granted of stored moments."""
    stated = {
        "normalisation": (identity.get("normalisation", "raw"), "raw"),
        "dtype.store": (identity.get("dtype", {}).get("store", "float16"), "float16"),
    }
    return [
        f"  {key}: the cache has {found!r}, training reads {wanted!r}"
        for key, (found, wanted) in stated.items()
        if found != wanted
    ]


def _vae_differences(
    identity: Mapping[str, Any], vae: Path, config: Mapping[str, Any]
) -> list[str]:
    stated = identity.get("vae", {})
    known = _known_class(vae)
    name = known or config.get("_class_name")
    if stated.get("class", name) != name:
        return [_difference("vae.class", stated["class"], name)]
    both = ({"vae": {"class": name, "config": made}} for made in (config, stated.get("config", {})))
    ours, theirs = (made["vae"]["config"] for made in comparable(*both, class_defaults))
    differs = [
        _difference(f"vae.config.{key}", theirs.get(key), ours.get(key))
        for key in sorted(ours.keys() | theirs.keys())
        if theirs.get(key) != ours.get(key)
    ]
    strides = identity.get("strides")
    if known and strides is not None and not differs:
        time, space = strides_of(vae)
        if strides != {"time": time, "space": space}:
            differs = [_difference("strides", strides, {"time": time, "space": space})]
    return differs


def _known_class(vae: Path) -> str:
    """The name of the autoencoder's class; "" of one that diffnext lacks: its configuration is enough."""
    try:
        return class_name(vae)
    except ValueError:
        return ""


def _difference(key: str, cache: Any, model: Any) -> str:
    return f"  {key}: the cache has {cache!r}, the model {model!r}"


def _refusal(reader: RecordReader, differs: list[str], vae: Path, expected: Expected) -> str:
    return "\n".join(
        [
            f"{reader.path} was not made with the autoencoder of this model, {vae}:",
            *differs,
            f"build the cache again: {rebuild_command(reader, vae, expected)}",
            "or train with the autoencoder that made it: PIPELINE.MODULES.vae FOLDER",
        ]
    )


def rebuild_command(reader: RecordReader, vae: Path, expected: Expected) -> str:
    """The command that builds a cache like this one for the network; words in capitals are the user's."""
    size, frames = "HxW", ""
    if _known_class(vae) and expected.size is not None:
        time, space = strides_of(vae)
        height, width = (space * side for side in expected.size)
        size = f"{height}x{width}"
        if time > 1 and expected.frames is not None:
            frames = f" --num-frames {time * (expected.frames - 1) + 1}"
    command = (
        f"python tools/build_cache.py --input INPUT --output OUTPUT --vae {vae} "
        f"--resolution {size}{frames}"
    )
    return f"{command} {options_of(identity_of(reader, 'moments') or {})}".rstrip()
