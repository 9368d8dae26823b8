# SPDX-License-Identifier: Apache-2.0
"""NOVA models of a few thousand weights, and caches of a few random latents for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from diffnext.data.records import open_writer

WIDTH = 16  # of prompt embeddings
HOME = "diffnext.models.transformers.transformer_nova"
TASKS = ("t2i", "t2v", "c2i")


def network_config(task: str) -> dict[str, object]:
    """The smallest network of a task."""
    video = task == "t2v"
    return {
        "_class_name": "NOVATransformer3DModel",
        "arch": ["vit_d1w64", "vit_d2w64", "mlp_d2w64"],
        "image_dim": 2,
        "image_size": 64,
        "image_stride": 8,
        "image_base_size": [4, 4],
        "video_base_size": [3 if video else 1, 2, 2],
        "video_mixer_rank": 8 if video else None,
        "rotary_pos_embed": False,
        "text_token_dim": None if task == "c2i" else WIDTH,
        "text_token_len": None if task == "c2i" else 4,
    }


def make_model(folder: Path, task: str) -> Path:
    """A model folder with configurations alone: networks begin with random weights."""
    pipeline = "NOVAC2IPipeline" if task == "c2i" else "NOVAPipeline"
    index = {
        "_class_name": ["diffnext.pipelines.nova", pipeline],
        "transformer": [HOME, "NOVATransformer3DModel"],
        "vae": ["diffnext.models.autoencoders.autoencoder_kl", "AutoencoderKL"],
        "scheduler": ["diffnext.schedulers.scheduling_cfm", "FlowMatchEulerDiscreteScheduler"],
    }
    vae = {"_class_name": "AutoencoderKL", "scaling_factor": 1.0, "latent_channels": 2}
    steps = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    for name, content in {
        "model_index.json": index,
        "transformer/config.json": network_config(task),
        "vae/config.json": vae,
        "scheduler/scheduler_config.json": steps,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def make_cache(
    folder: Path, task: str, *, count: int = 8, channels: int = 2, size: int = 8, width: int = WIDTH
) -> Path:
    """`count` records of latents that are constant in space, each with a prompt or label of its own."""
    rng = np.random.default_rng(0)
    fields = {"moments": "bytes", "shape": ["int64"]}
    if task == "c2i":
        fields["label"] = "int64"
    else:
        fields["caption"] = {"data": "bytes", "shape": ["int64"]}
    frames = (3,) if task == "t2v" else ()
    writer = open_writer(folder, fields)
    for index in range(count):
        level = rng.normal(size=(channels, *[1] * len(frames), 1, 1))
        mean = np.broadcast_to(level, (channels, *frames, size, size))
        moments = np.concatenate([mean, np.full_like(mean, -20.0)]).astype(np.float16)
        record = {"moments": moments.tobytes(), "shape": list(moments.shape)}
        if task == "c2i":
            record["label"] = index
        else:
            prompt = rng.normal(size=(3, width)).astype(np.float16)
            record["caption"] = {"data": prompt.tobytes(), "shape": list(prompt.shape)}
        writer.write(record)
    writer.close()
    return folder


def make_config(path: Path, task: str, **options: object) -> Path:
    """A config file of a short run; options by their full names."""
    values = {
        "PIPELINE.TYPE": f"nova_train_{task}",
        "MODEL.PRECISION": "float32",
        "MODEL.WEIGHTS": str(path.parent / "model"),
        "SOLVER.BASE_LR": 1e-3,
        "SOLVER.MAX_STEPS": 6,
        "SOLVER.DISPLAY": 2,
        "SOLVER.EMA_EVERY": 2,
        "SOLVER.SNAPSHOT_EVERY": 3,
        "SOLVER.SNAPSHOT_PREFIX": "tiny",
        "SOLVER.WARM_UP_STEPS": 2,
        "TRAIN.DATASET": str(path.parent / "cache"),
        "TRAIN.BATCH_SIZE": 4,
        "TRAIN.NUM_THREADS": 0,
        "TRAIN.DEVICE_EMA": "cpu",
    } | options
    tree: dict = {}
    for name, value in values.items():
        section, key = name.split(".", 1) if "." in name else ("", name)
        (tree.setdefault(section, {}) if section else tree)[key] = value
    path.write_text(json.dumps(tree))  # JSON is YAML
    return path


def make_run(folder: Path, task: str, **options: object) -> Path:
    """Model, cache and config in one folder; returns the config's path."""
    make_model(folder / "model", task)
    make_cache(folder / "cache", task)
    return make_config(folder / "run.yml", task, **options)
