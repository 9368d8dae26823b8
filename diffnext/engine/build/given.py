# SPDX-License-Identifier: Apache-2.0
"""What a run is given, its model and its data: compared before anything is imported that runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffnext.engine.build.config import Config
from diffnext.engine.build.data import Datasets, datasets_of, held_out_of
from diffnext.engine.build.folders import network_folder
from diffnext.engine.component_files import read_config
from diffnext.pipelines.families import PIPELINES
from diffnext.pipelines.train_base import Expected, TrainPipeline


@dataclass(frozen=True)
class Given:
    """A model and the data that go with it."""

    family: type[TrainPipeline]
    folder: Path  # of the network's configuration, and of its weights if it has any
    config: dict[str, Any]  # of the network, with what the run sets otherwise
    expected: Expected  # of data, by that configuration
    data: Datasets
    held_out: Datasets | None  # what is evaluated on

    def close(self) -> None:
        """Let go of the data."""
        for datasets in (self.data, self.held_out):
            for reader in datasets.readers if datasets else ():
                reader.close()


def compare_given(cfg: Config) -> Given:
    """Find model and data of a run, and compare them by their files alone.

    Raises:
        ValueError, FileNotFoundError: what does not fit; with the values of both sides and what to do.
    """
    family = PIPELINES.get(cfg.PIPELINE.TYPE)
    folder = network_folder(cfg, family)
    config = read_config(folder) | dict(cfg.MODEL.CONFIG)
    expected = family.expects(config)
    return Given(
        family=family,
        folder=folder,
        config=config,
        expected=expected,
        data=datasets_of(cfg, family.reads, expected),
        held_out=held_out_of(cfg, family.reads, expected),
    )
