# SPDX-License-Identifier: Apache-2.0
"""A cache that does not belong to the model is refused before any weights are read."""

import json
import shutil
import time

import numpy as np
import pytest

from diffnext.data.records import open_writer, write_identity
from diffnext.models.autoencoders.loading import describe_vae
from diffnext.models.text_encoders.loading import describe_text_encoder
from tests.runs.test_overfit import train
from tests.runs.tiny_nova import make_cache, make_config, make_model

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tmp_path):
    """A model whose autoencoder has weights, and whose network's weights cannot be read."""
    folder = make_model(tmp_path / "model", "t2i")
    (folder / "vae" / WEIGHTS).write_bytes(b"weights of the autoencoder")
    with open(folder / "transformer" / WEIGHTS, "wb") as stream:
        stream.truncate(1 << 40)  # sparse: whoever reads it takes minutes, or fails
    return folder


def identity(model, **changes):
    strides = {"time": 1, "space": 1}
    content = {"version": 1, "vae": describe_vae(str(model)), "normalisation": "raw"}
    return content | {"dtype": {"store": "float16"}, "strides": strides} | changes


def dry_run(model, cache, *options):
    config = make_config(model.parent / "run.yml", "t2i")
    begin = time.process_time()
    code = train("--cfg", str(config), "--dry-run", "TRAIN.DATASET", str(cache), *options)
    assert time.process_time() - begin < 30
    return code


def refused(capsys, model, cache, *options):
    assert dry_run(model, cache, *options) == 2
    return capsys.readouterr().err


def accepted(capsys, model, cache, *options):
    """What a dry run prints; the network begins with random weights, as its own cannot be read."""
    (model / "transformer" / WEIGHTS).unlink(missing_ok=True)
    assert dry_run(model, cache, *options) == 0
    return capsys.readouterr().out


def own_cache(model, **changes):
    cache = make_cache(model.parent / "cache", "t2i")
    write_identity(cache, identity(model, **changes))
    return cache


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_models_own_cache(capsys, model):
    out = accepted(capsys, model, own_cache(model))
    assert "was made by the model's AutoencoderKL, weights " in out
    assert "latents    mean " in out
    assert [line for line in out.splitlines() if line.startswith("WARNING")] == [
        f"WARNING    {model.parent / 'cache'} does not state which text encoder made its embeddings"
    ]


def test_edited_weights(capsys, model):
    cache = own_cache(
        model,
        dtype={"encode": "bfloat16", "store": "float16"},
        rules={"flow": "rule"},
        text_encoder={"class": "T5"},
    )
    before = describe_vae(str(model))["weights_sha256"]
    (model / "vae" / WEIGHTS).write_bytes(b"Weights of the autoencoder")
    after = describe_vae(str(model))["weights_sha256"]
    error = refused(capsys, model, cache)
    assert f"vae.weights_sha256: the cache has '{before}', the model '{after}'" in error
    assert f"python tools/build_cache.py --input INPUT --output OUTPUT --vae {model}/vae" in error
    options = "--dtype bfloat16 --motion --encode-prompts --text-model MODEL\n"
    assert f"--resolution 8x8 {options}" in error and "PIPELINE.MODULES.vae FOLDER" in error


def test_the_folder_that_made_the_cache_is_named(capsys, model):
    cache = own_cache(model)
    shutil.copytree(model / "vae", model.parent / "kept")
    (model / "vae" / WEIGHTS).write_bytes(b"other")
    refused(capsys, model, cache)
    out = accepted(capsys, model, cache, "PIPELINE.MODULES.vae", str(model.parent / "kept"))
    assert "was made by the model's AutoencoderKL" in out


def test_a_moved_autoencoder_is_missed_by_name(capsys, model):
    cache = own_cache(model)
    (model / "vae").rename(model.parent / "moved")
    error = refused(capsys, model, cache)
    assert f"{model}/vae/config.json does not exist" in error
    assert "PIPELINE.MODULES.vae FOLDER" in error
    out = accepted(capsys, model, cache, "PIPELINE.MODULES.vae", str(model.parent / "moved"))
    assert "was made by the model's AutoencoderKL" in out


def test_an_autoencoder_of_another_kind(capsys, model):
    cache = own_cache(model)
    home = "diffnext.models.autoencoders.autoencoder_kl_opensora"
    edit_json(model / "model_index.json", vae=[home, "AutoencoderKLOpenSora"])
    error = refused(capsys, model, cache)
    assert "vae.class: the cache has 'AutoencoderKL', the model 'AutoencoderKLOpenSora'" in error


def test_an_autoencoder_of_other_channels(capsys, model):
    cache = own_cache(model)
    edit_json(model / "vae/config.json", latent_channels=16)
    error = refused(capsys, model, cache)
    assert "vae.config.latent_channels: the cache has 2, the model 16" in error


def test_scale_and_defaults_written_out_are_no_difference(capsys, model):
    cache = own_cache(model)
    edit_json(model / "vae/config.json", scaling_factor=0.9, shift_factor=0.1, act_fn="silu")
    assert "was made by the model's AutoencoderKL" in accepted(capsys, model, cache)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"normalisation": "scaled"},
            "normalisation: the cache has 'scaled', training reads 'raw'",
        ),
        (
            {"dtype": {"store": "int8"}},
            "dtype.store: the cache has 'int8', training reads 'float16'",
        ),
        (
            {"strides": {"time": 1, "space": 8}},
            "strides: the cache has {'time': 1, 'space': 8}, the model {'time': 1, 'space': 1}",
        ),
    ],
)
def test_latents_in_another_state(capsys, model, changes, message):
    assert message in refused(capsys, model, own_cache(model, **changes))


def test_a_cache_that_states_nothing_trains_with_a_warning(capsys, model):
    cache = make_cache(model.parent / "cache", "t2i")
    out = accepted(capsys, model, cache)
    (warning,) = [line for line in out.splitlines() if line.startswith("WARNING")]
    assert "does not state what made it: autoencoder, normalisation, resize rule and" in warning


def test_an_imported_cache_trains_with_a_warning(capsys, model):
    cache = make_cache(model.parent / "cache", "t2i")
    imported = {"layout": "fastvideo", "unknown": ["vae", "normalisation"]}
    write_identity(cache, {"version": 2, "dtype": {"store": "float16"}, "imported": imported})
    out = accepted(capsys, model, cache)
    warnings = [line for line in out.splitlines() if line.startswith("WARNING")]
    assert "imported from fastvideo and does not state vae, normalisation" in warnings[0]


def test_an_autoencoder_without_weights_is_compared_as_far_as_it_goes(capsys, model):
    cache = own_cache(model)
    (model / "vae" / WEIGHTS).unlink()
    out = accepted(capsys, model, cache)
    assert f"weights could not be compared, {model}/vae has none" in out
    edit_json(model / "vae/config.json", act_fn="relu")
    assert "vae.config.act_fn: the cache has 'silu'" in refused(capsys, model, cache)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"channels": 3}, "8 of 8 records are [6, 1, 8, 8]: moments of 3 latent channels"),
        ({"size": 6}, "[4, 1, 6, 6]: latents of 6 x 6, the network takes 8 x 8"),
        ({"width": 12}, "embeddings of width 12, the network takes 16"),
    ],
)
def test_latents_of_another_shape(capsys, model, cache, message):
    folder = make_cache(model.parent / "other", "t2i", **cache)
    assert message in refused(capsys, model, folder)


def test_videos_for_a_network_of_pictures(capsys, model):
    cache = make_cache(model.parent / "clips", "t2v")
    error = refused(capsys, model, cache)
    assert "[4, 3, 8, 8]: videos of 3 latent frames, the network takes pictures" in error


def test_videos_of_another_length_are_counted(capsys, tmp_path):
    model = make_model(tmp_path / "model", "t2v")
    edit_json(model / "transformer/config.json", video_base_size=[9, 2, 2])
    cache = make_cache(tmp_path / "clips", "t2v")
    out = accepted(capsys, model, cache, "PIPELINE.TYPE", "nova_train_t2v")
    said = f"8 of 8 records of {cache} have 3 latent frames%s, the network is made for 9 latent frames%s:"
    assert said % ("", "") in out
    identity = {"normalisation": "raw", "strides": {"time": 4, "space": 8}}
    (cache / "diffnext.json").write_text(json.dumps(identity))
    out = accepted(capsys, model, cache, "PIPELINE.TYPE", "nova_train_t2v")
    assert said % (" (9 frames)", " (33 frames)") in out


def mixed_cache(folder):
    """Three records of 8 x 8 and two of 6 x 10, with the same prompt."""
    fields = {
        "moments": "bytes",
        "shape": ["int64"],
        "caption": {"data": "bytes", "shape": ["int64"]},
    }
    prompt = {"data": np.zeros((5, 16), "<f2").tobytes(), "shape": [5, 16]}
    with open_writer(folder, fields) as writer:
        for shape in ([4, 8, 8], [4, 6, 10], [4, 8, 8], [4, 6, 10], [4, 8, 8]):
            writer.write({"moments": np.zeros(shape, "<f2"), "shape": shape, "caption": prompt})
    return folder


def test_a_cache_of_several_sizes_trains_in_part_when_told_to(capsys, model):
    cache = mixed_cache(model.parent / "mixed")
    error = refused(capsys, model, cache)
    assert "2 of 5 records are [4, 1, 6, 10]: latents of 6 x 10" in error
    assert "TRAIN.OTHER_SHAPES skip" in error
    out = accepted(capsys, model, cache, "TRAIN.OTHER_SHAPES", "skip")
    assert f"data       {cache}: 3 records of [4, 8, 8]" in out
    assert f"2 of 5 records of {cache} are left out: 2 with latents of 6 x 10" in out
    assert "up to 5 tokens; the network reads the first 4" in out


def test_a_scale_that_is_not_that_of_the_latents_is_told(capsys, model):
    cache = own_cache(model)
    edit_json(model / "vae/config.json", scaling_factor=0.01)
    out = accepted(capsys, model, cache)
    assert f"WARNING    latents of {cache} have mean " in out and "far from 0 and 1" in out


def test_prompts_of_another_text_encoder(capsys, model):
    folder = model / "text_encoder"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["PhiModel"], "hidden_size": 16}')
    (folder / "model.safetensors").write_bytes(b"text")
    edit_json(model / "model_index.json", text_encoder=["transformers", "PhiModel"])
    made = describe_text_encoder(folder)
    cache = own_cache(model, text_encoder=made)
    assert "were embedded by the model's text encoder" in accepted(capsys, model, cache)
    (folder / "model.safetensors").write_bytes(b"Text")
    error = refused(capsys, model, cache)
    assert f"text_encoder.weights_sha256: the cache has '{made['weights_sha256']}'" in error


def test_each_cache_of_a_run_is_compared(capsys, model):
    first, second = own_cache(model), make_cache(model.parent / "b", "t2i")
    write_identity(second, identity(model, normalisation="scaled"))
    error = refused(capsys, model, f"{first}:2,{second}")
    assert f"{second} was not made with the autoencoder" in error
