# SPDX-License-Identifier: Apache-2.0
"""A small model with a text encoder, and pictures with captions."""

import json
import shutil
import weakref

import pytest
import torch

from diffnext.models.autoencoders import loading
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.pipelines.nova import prompt_encoder
from tests.cli.embedding import CAPTIONS, LENGTH, add_picture
from tests.pipelines.tiny import PICTURE_VAE, TEXT


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts") / "model"
    torch.manual_seed(0)
    AutoencoderKL(latent_channels=4, **PICTURE_VAE).save_pretrained(folder / "vae")
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(TEXT, folder / part)
    (folder / "transformer").mkdir()
    network = {"text_token_dim": 64, "text_token_len": LENGTH}
    (folder / "transformer" / "config.json").write_text(json.dumps(network))
    index = {
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["diffnext.models.text_encoders.phi", "PhiEncoderModel"],
        "tokenizer": ["transformers", "CodeGenTokenizerFast"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, caption in CAPTIONS.items():
        add_picture(folder, name, caption)
    return folder


@pytest.fixture
def asked(monkeypatch):
    """The texts that encoders are asked for, one list a batch."""
    batches = []
    real = prompt_encoder.PromptEncoder.__call__

    def call(self, texts):
        batches.append(list(texts))
        return real(self, texts)

    monkeypatch.setattr(prompt_encoder.PromptEncoder, "__call__", call)
    return batches


@pytest.fixture
def alive(monkeypatch):
    """For each loading of an autoencoder, whether a text encoder was in memory."""
    load_text, load_vae = prompt_encoder.PromptEncoder.__init__, loading.load_vae
    encoders, alive = weakref.WeakSet(), []

    def init(self, *args, **options):
        load_text(self, *args, **options)
        encoders.add(self.text_encoder)

    def load(*args, **options):
        alive.append(len(encoders) > 0)
        return load_vae(*args, **options)

    monkeypatch.setattr(prompt_encoder.PromptEncoder, "__init__", init)
    monkeypatch.setattr(loading, "load_vae", load)
    return alive
