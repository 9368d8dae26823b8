# SPDX-License-Identifier: Apache-2.0
"""The experiment folder: where a run writes, and what it says about itself."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

import diffnext
from diffnext.distributed import env as processes
from diffnext.distributed.env import Env
from diffnext.utils import files, logging
from diffnext.utils.wandb_writer import WandbWriter
from diffnext.utils.writers import Curves, JsonlWriter, TensorBoardWriter, Writer

_PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "deepspeed")


class Coordinator:
    """Knows the experiment folder; nothing is made before `start`, and the first process writes.

    <folder>/config.yaml        the options of the run, with versions and commit as comments
             logs/train.log, logs/metrics.jsonl, logs/eval.jsonl, logs/tensorboard/,
             logs/wandb/
             checkpoints/, ema_checkpoints/

    Args:
        folder: an existing one is continued; "" makes runs/<name>_<time>.
        name: of a new folder.
        env: this process.
    """

    def __init__(self, folder: str, *, name: str, env: Env) -> None:
        chosen = folder or f"runs/{name}_{time.strftime('%Y%m%d-%H%M%S')}"
        self.folder = Path(str(processes.broadcast(chosen))).absolute()
        self.env = env
        self.logs = self.folder / "logs"
        self._config = ""
        logging.setup(rank=env.rank)

    def start(self, config: str) -> None:
        """Make the folder, begin the log, write the options of the run.

        Args:
            config: YAML text; `--cfg` reads the written file back.
        """
        self._config = config
        self.logs.mkdir(parents=True, exist_ok=True)
        logging.setup(rank=self.env.rank, file=str(self.logs / "train.log"))
        if self.env.is_main:
            files.remove_drafts(self.folder)
            about = "".join(f"# {key}: {value}\n" for key, value in describe().items())
            files.write_text(self.folder / "config.yaml", about + config)

    def rows(self, name: str, *, step: int) -> list[Writer]:
        """A file of rows in logs/; none except on the first process.

        Args:
            step: finished steps; later rows of an earlier run are dropped.
        """
        return [JsonlWriter(self.logs / name, step=step)] if self.env.is_main else []

    def curves(self, *, step: int, tensorboard: bool, wandb: bool) -> list[Curves]:
        """Where numbers are shown while the run goes on; nowhere except on the first process.

        Args:
            step: finished steps; later points of an earlier run are hidden in TensorBoard.
        """
        shown: list[Curves] = []
        if self.env.is_main and tensorboard:
            shown.append(TensorBoardWriter(self.logs / "tensorboard", step=step))
        if self.env.is_main and wandb:
            config = yaml.safe_load(self._config)
            shown.append(WandbWriter(self.logs, name=self.folder.name, config=config))
        return shown


def describe() -> dict[str, str]:
    """Versions, commit and machine that a run depends on."""
    found = {
        "diffnext": diffnext.__version__,
        "commit": commit(),
        "python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
    found["directory"] = os.getcwd()  # what relative paths of the options start from
    found["command"] = " ".join(sys.argv)
    return found


def commit() -> str:
    """The git commit of this package's source, with "+changes" if files differ; "" outside of git."""
    root = Path(diffnext.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
