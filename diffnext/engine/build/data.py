# SPDX-License-Identifier: Apache-2.0
"""The data of a run: what is read, and what reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from diffnext.data.datasets import identity_of, open_datasets, places_of, select_shapes
from diffnext.data.loader import Loader
from diffnext.data.records import RecordReader
from diffnext.data.remote.reader import RemoteReader
from diffnext.distributed.env import Env
from diffnext.engine import check_data, check_identity
from diffnext.engine.build.config import Config
from diffnext.engine.build.folders import component_folder
from diffnext.engine.component_files import read_config
from diffnext.pipelines.train_base import Expected
from diffnext.utils.registry import check_options, construct


@dataclass(frozen=True)
class Datasets:
    """What a run trains on, compared with its model."""

    readers: list[RecordReader]
    shares: list[float]  # how often each dataset passes in an epoch
    notes: list[str]  # what was compared and what could not be, one line each


def datasets_of(cfg: Config, reads: Sequence[str], expected: Expected) -> Datasets:
    """Open the datasets and compare each with the model; no weights are loaded.

    Args:
        reads: fields that the pipeline reads.
        expected: what the network takes.

    Raises:
        ValueError: what does not fit; with the values of both sides and what to do.
    """
    readers, shares = _open(cfg)
    return _checked(cfg, readers, shares, reads, expected)


def held_out_of(cfg: Config, reads: Sequence[str], expected: Expected) -> Datasets | None:
    """Open the datasets for evaluation in the same way; None where none is asked for.

    Raises:
        ValueError: what does not fit, or no dataset.
    """
    if cfg.EVAL.EVERY == 0:
        return None
    if not cfg.EVAL.DATASET:
        raise ValueError(
            f"EVAL.EVERY is {cfg.EVAL.EVERY} and EVAL.DATASET is empty; name a cache that is not "
            "trained on, or set EVAL.EVERY 0"
        )
    readers, shares = _open_folders(cfg, "EVAL.DATASET")
    return _checked(cfg, readers, shares, reads, expected)


def _checked(
    cfg: Config,
    readers: Sequence[RecordReader],
    shares: list[float],
    reads: Sequence[str],
    expected: Expected,
) -> Datasets:
    checked, notes = [], []
    for reader in readers:
        check_data.check_fields(reader, reads)
        vae = component_folder(cfg, "vae")
        notes += places_of(reader)
        notes.append(check_identity.check_autoencoder(reader, vae, expected))
        reader, left_out = _fitting(cfg, reader, expected)
        checked.append(reader)
        notes += [*left_out, *check_data.odd_lengths(reader, expected)]
        notes += _look(cfg, reader, expected)
    return Datasets(checked, shares, notes)


def _fitting(
    cfg: Config, reader: RecordReader, expected: Expected
) -> tuple[RecordReader, list[str]]:
    """The records that the network can take, and what is said of the others."""
    misfits = check_data.misfits(reader, expected)
    if not misfits:
        return reader, []
    counts = check_data.count_shapes(reader)
    count = sum(counts[shape] for shape in misfits)
    if cfg.TRAIN.OTHER_SHAPES == "refuse" or count == len(reader):
        vae = component_folder(cfg, "vae")
        rebuild = check_identity.rebuild_command(reader, vae, expected)
        raise ValueError(check_data.refusal(reader, misfits, rebuild))
    note = f"WARNING    {count} of {len(reader)} records of {reader.path} are left out: "
    note += "; ".join(f"{counts[shape]} with {reason}" for shape, reason in misfits.items())
    return select_shapes(reader, misfits), [note]


def _look(cfg: Config, reader: RecordReader, expected: Expected) -> list[str]:
    """What the values of a few records say."""
    records = check_data.look(reader)
    notes = check_data.check_prompts(reader, records, expected)
    check_data.check_labels(reader, records, expected)
    states = identity_of(reader, "moments") is not None  # else one warning speaks of everything
    if states and check_data.embedded_text(reader) and expected.text_width is not None:
        folder = component_folder(cfg, "text_encoder")
        notes.append(check_identity.check_text_encoder(reader, folder, expected.text_length))
    level = check_data.latent_level(records, read_config(component_folder(cfg, "vae")))
    return [*notes, check_data.describe_level(reader, records, *level)]


def _open(cfg: Config) -> tuple[list[RecordReader], list[float]]:
    if not cfg.TRAIN.DATASET:
        raise ValueError("TRAIN.DATASET is empty; name a folder that tools/build_cache.py made")
    if cfg.TRAIN.LOADER != "vae_train":
        raise ValueError(f"TRAIN.LOADER is {cfg.TRAIN.LOADER!r}; there is 'vae_train'")
    check_options(RemoteReader, cfg.TRAIN.REMOTE_CONFIG, key="TRAIN.REMOTE_CONFIG")
    return _open_folders(cfg, "TRAIN.DATASET", cfg.TRAIN.DATASET2)


def _open_folders(
    cfg: Config, key: str, second: str = ""
) -> tuple[list[RecordReader], list[float]]:
    """The datasets of an option; an error about a folder that is not there names the option."""
    text = attrgetter(key)(cfg)
    try:
        return open_datasets(text, second, remote=cfg.TRAIN.REMOTE_CONFIG)
    except FileNotFoundError as error:
        both = f"{key} {text!r}" + (f", TRAIN.DATASET2 {second!r}" if second else "")
        raise FileNotFoundError(f"{both}: {error}; name what tools/build_cache.py made") from error


def make_loader(cfg: Config, data: Datasets, env: Env) -> Loader:
    """What hands this process its batches."""
    options = {
        "batch_size": cfg.TRAIN.BATCH_SIZE,
        "accum_steps": cfg.SOLVER.ACCUM_STEPS,
        "seed": cfg.RNG_SEED,
        "rank": env.rank,
        "world": env.world,
        "num_threads": cfg.TRAIN.NUM_THREADS,
        "weights": data.shares,
        "pin_memory": env.device.type == "cuda",
    }
    options |= dict(cfg.TRAIN.LOADER_CONFIG)
    return construct(Loader, data.readers, options=options, key="TRAIN.LOADER_CONFIG")
