# SPDX-License-Identifier: Apache-2.0
"""Prompts embedded while a cache is built, or after: against the text encoder, and in training."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from diffnext import cli
from diffnext.cli import build_cache
from diffnext.data.datasets import identity_of, open_datasets
from diffnext.data.loader import Loader
from diffnext.data.prompt_cache import embeddings_in
from diffnext.data.records import RecordError, open_reader, read_identity
from diffnext.data.records.layout import JOURNAL as WRITING
from diffnext.data.tools.quality import caption_of
from diffnext.engine.check_identity import check_text_encoder
from diffnext.models.text_encoders.loading import describe_text_encoder
from diffnext.pipelines.builder import PIPELINES
from diffnext.pipelines.nova.prompts import encode_prompts
from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
from diffnext.utils.seeding import Draws
from tests.cli.embedding import CAPTIONS, LENGTH, add_picture, build, flip_in
from tests.models.tiny import text_net
from tests.pipelines.tiny import text_parts


def embed(cache, output, model, *options, code=0):
    command = [str(cache), "--output", str(output), "--text-model", str(model), *options]
    assert cli.main(["cache", "prompts", *command, "--device", "cpu"]) == code


def stored(cache):
    """Words -> embeddings, as arrays, of all records."""
    reader = open_reader(cache)
    return {
        tuple(record["words"]): [
            np.frombuffer(one["data"], np.float16).reshape(one["shape"])
            for one in embeddings_in(record)
        ]
        for record in (reader[number] for number in range(len(reader)))
    }


def assert_embedded(cache):
    """Each embedding against the encoder applied to its text alone."""
    for words, arrays in stored(cache).items():
        wanted = encode_prompts(*text_parts().values(), words, LENGTH)
        for array, one in zip(arrays, wanted, strict=True):
            assert array.shape == (min(len(one), LENGTH), 64)
            # float16 keeps 11 bits; sums of a batch may be taken in another order
            np.testing.assert_allclose(array, one.numpy(), rtol=2**-10, atol=1e-4)


def test_texts_are_embedded_once_and_none_again(photos, model, tmp_path, asked):
    cache = tmp_path / "cache"
    build(photos, cache, model, "--encode-prompts", "--text-batch-size", "2", "--flip")
    texts = {"A cat. It sits.", "A cat.", "A dog.", CAPTIONS["d"], ""}
    assert len(open_reader(cache)) == 8
    assert sorted(text for batch in asked for text in batch) == sorted(texts)
    assert_embedded(cache)
    assert set(stored(cache)) == {
        ("A cat. It sits.", "A cat."),
        ("A dog.", ""),
        (CAPTIONS["d"], ""),
    }
    assert not (cache / "diffnext.prompts").exists()
    assert caption_of(open_reader(cache)[0]) == "A cat. It sits."

    asked.clear()  # another size, and then one more picture
    build(photos, cache, model, "--encode-prompts", "--flip", resolution="64,32")
    assert asked == [] and len(open_reader(cache)) == 16
    add_picture(photos, "e", "A dog. A fox.")
    build(photos, cache, model, "--encode-prompts", "--flip", resolution="64,32")
    assert asked == [["A dog. A fox."]] and len(open_reader(cache)) == 20
    assert_embedded(cache)


def test_the_identity_states_the_text_encoder_and_training_compares_it(photos, model, tmp_path):
    build(photos, tmp_path / "cache", model, "--encode-prompts", "--text-dtype", "bf16")
    stated = read_identity(tmp_path / "cache")["text_encoder"]
    assert stated.items() >= describe_text_encoder(model / "text_encoder").items()
    assert (stated["max_length"], stated["dtype"]) == (LENGTH, "bfloat16")
    assert stated["config"]["num_hidden_layers"] == 2 and len(stated["tokenizer_sha256"]) == 64
    reader = open_reader(tmp_path / "cache")
    assert "by the model's text encoder" in check_text_encoder(reader, model / "text_encoder")
    longer = check_text_encoder(reader, model / "text_encoder", LENGTH + 1)
    assert longer.startswith("WARNING") and "cut at 12 tokens" in longer and "reads 13" in longer
    other = shutil.copytree(model / "text_encoder", tmp_path / "other")
    (other / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match="weights_sha256: the cache has"):
        check_text_encoder(reader, other)


def test_texts_and_embeddings_do_not_mix(photos, model, tmp_path, capsys):
    build(photos, tmp_path / "texts", model)
    build(photos, tmp_path / "texts", model, "--encode-prompts", code=2)
    assert (
        "embed them into a folder beside it with `diffnext cache prompts`"
        in capsys.readouterr().err
    )
    build(photos, tmp_path / "cache", model, "--encode-prompts")
    build(photos, tmp_path / "cache", model, code=2)
    assert "embedded by PhiEncoderModel; add --encode-prompts" in capsys.readouterr().err
    build(photos, tmp_path / "cache", model, "--encode-prompts", "--text-dtype", "bf16", code=2)
    error = capsys.readouterr().err
    assert "text_encoder.dtype: the cache has 'float32', this build 'bfloat16'" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--together"], "are for --encode-prompts"),
        (["--encode-prompts", "--together", "--join"], "--together is for one process"),
        (["--encode-prompts", "--text-model", "vae"], "a model folder is wanted"),
    ],
)
def test_options_that_can_do_nothing_are_refused(photos, model, tmp_path, capsys, options, message):
    options = [str(model / "vae") if option == "vae" else option for option in options]
    build(photos, tmp_path / "cache", model, *options, code=2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("together", [False, True])
def test_text_encoder_and_autoencoder_are_in_memory_together_only_if_asked(
    photos, model, tmp_path, alive, together
):
    options = ["--together"] if together else []
    build(photos, tmp_path / "cache", model, "--encode-prompts", *options)
    assert alive == [together]
    assert_embedded(tmp_path / "cache")


def test_a_build_that_ends_early_keeps_its_embeddings(photos, model, tmp_path, asked, monkeypatch):
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(build_cache, "encode", interrupted)
        build(photos, cache, model, "--encode-prompts", code=130)
    assert len(asked) == 1
    for name in ("other", "texts"):
        shutil.copytree(cache, tmp_path / name)
    build(photos, cache, model, "--encode-prompts")
    assert len(asked) == 1 and len(open_reader(cache)) == 4
    assert_embedded(cache)
    build(photos, tmp_path / "other", model, "--encode-prompts", "--together")
    assert_embedded(tmp_path / "other")
    build(photos, tmp_path / "texts", model)
    for name in ("other", "texts"):
        assert not (tmp_path / name / "diffnext.prompts").exists()


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_build_of_several_processes_embeds_too(photos, model, tmp_path):
    build(photos, tmp_path / "cache", model, "--encode-prompts", "--join")
    assert_embedded(tmp_path / "cache")
    assert len(open_reader(tmp_path / "cache")) == 4


def losses(model, dataset, joined=""):
    """Those of a few steps of training on a cache."""
    [reader], weights = open_datasets(str(dataset), str(joined) if joined else "")
    torch.manual_seed(0)
    net = text_net(text_token_dim=64, text_token_len=LENGTH)
    options = {"vae_config": {"scaling_factor": 0.5}, "loss_repeat": 2, **text_parts()}
    pipe = PIPELINES.get("nova_train_t2i")(net, FlowMatchEulerDiscreteScheduler(), **options)
    pipe.configure()
    loader = Loader([reader], batch_size=4, num_threads=0, weights=weights, seed=5)
    found = []
    for step in range(6):
        batch = next(loader)
        inputs = pipe.prepare(batch, draws=Draws(3, step, batch.keys()))
        found.append(pipe.loss(net, inputs).loss.item())
    return found


def test_training_has_the_loss_of_live_encoding(photos, model, tmp_path, capsys):
    """Embedded in the build, or beside it after; of texts with and without a short caption."""
    (photos / "a.json").write_text(json.dumps({"caption": CAPTIONS["a"], "text": "cat"}))
    build(photos, tmp_path / "texts", model)
    build(photos, tmp_path / "cache", model, "--encode-prompts")
    embed(tmp_path / "texts", tmp_path / "beside", model)
    assert f"TRAIN.DATASET2 {tmp_path / 'beside'}" in capsys.readouterr().out
    live = losses(model, tmp_path / "texts")
    cached = losses(model, tmp_path / "cache")
    beside = losses(model, tmp_path / "texts", tmp_path / "beside")
    assert len(set(live)) == 6
    # states are rounded to the 11 bits of float16, each by itself: 2**-11, and less in their sum
    np.testing.assert_allclose(cached, live, rtol=1e-4)
    assert live != cached == beside
    [reader], _ = open_datasets(str(tmp_path / "texts"), str(tmp_path / "beside"))
    assert identity_of(reader, "caption")["text_encoder"]["max_length"] == LENGTH
    assert "by the model's text encoder" in check_text_encoder(reader, model / "text_encoder")


def unfinish(folder):
    """Leave what a process leaves that is killed when all its records are there."""
    features = json.loads((folder / "METADATA").read_text())["features"]
    (folder / "METADATA").unlink()
    (folder / WRITING).write_text(json.dumps({"features": features}))


def test_a_folder_of_embeddings_follows_its_cache(photos, model, tmp_path, asked, capsys):
    texts, beside = tmp_path / "texts", tmp_path / "beside"
    build(photos, texts, model)
    embed(texts, beside, model)
    asked.clear()
    names = sorted(os.listdir(beside))
    unfinish(beside)
    embed(texts, beside, model)
    assert "0 written, 4 records in all" in capsys.readouterr().out
    assert sorted(os.listdir(beside)) == names
    add_picture(photos, "e", "A dog. A fox.")
    build(photos, texts, model)
    embed(texts, beside, model)
    assert asked == [["A dog. A fox."]]
    assert_embedded(beside)
    reader, source = open_reader(beside), open_reader(texts)
    words = [reader[number]["words"][0] for number in range(5)]
    assert words == [source[number]["caption"] for number in range(5)]

    embed(beside, tmp_path / "again", model, code=2)
    assert "has prompt embeddings already" in capsys.readouterr().err
    embed(texts, beside, model, "--text-dtype", "bf16", code=2)
    assert "was made by another text encoder" in capsys.readouterr().err
    (photos / "b.png").unlink()
    build(photos, texts, model, "--prune")
    embed(texts, beside, model, code=2)
    assert "records of that were changed or dropped" in capsys.readouterr().err
    add_picture(photos, "f", "A bird.")
    build(photos, texts, model)  # as many as there are embeddings again, the lengths say nothing
    [reader], _ = open_datasets(str(texts), str(beside))
    with pytest.raises(RecordError, match=r"the embeddings are of .* were changed or dropped"):
        next(Loader([reader], batch_size=5, num_threads=0))
    embed(texts, texts, model, code=2)
    assert "choose another --output" in capsys.readouterr().err
    flip_in(beside, 0, b"A cat. It sits.")
    assert cli.main(["cache", "verify", str(beside), "--repair", "--drop"]) == 1
    assert "so none can be dropped: remove it, and" in capsys.readouterr().out
