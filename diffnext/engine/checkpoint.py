# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the whole run, so that it goes on exactly, and beside it the network for others to load.

<run>/checkpoints/<prefix>_iter_<step>/
    <module>/      the network in the layout of diffusers
    state/         tensors by name: roles.<role>.<module>.<weight>, optimizers.<role>.<weight>.<field>,
                   ema.<role>.<module>.<weight>, scalers.<role>.<field>, method.<field>
    run.json       step, loader, method, configuration, versions
    complete.json  written last: every file with its size
<run>/ema_checkpoints/<prefix>_iter_<step>/<module>/  the running average, in the layout of diffusers
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from diffnext.distributed import env as processes
from diffnext.engine.ema import EMA
from diffnext.engine.scaler import LossScaler
from diffnext.engine.tensors import SavedTensors, save_network, save_tensors
from diffnext.utils import files
from diffnext.utils.logging import logger

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer

_NAME = re.compile(r"(?P<prefix>.+)_iter_(?P<step>\d+)$")
_COMPLETE = "complete.json"


class Resumable(Protocol):
    """Something with a position, such as a loader; its state is JSON."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Checkpoint:
    """One finished checkpoint."""

    folder: Path
    step: int

    def run(self) -> dict[str, Any]:
        """What run.json says."""
        return json.loads((self.folder / "run.json").read_text())


def newest(run_folder: str | Path) -> Checkpoint | None:
    """The complete checkpoint with the most steps; torn ones are passed over and named."""
    found = []
    for folder in Path(run_folder, "checkpoints").glob("*_iter_*"):
        match = _NAME.match(folder.name)
        if match and folder.is_dir():
            found.append(Checkpoint(folder, int(match["step"])))
    for checkpoint in sorted(found, key=lambda c: c.step, reverse=True):
        flaw = find_flaw(checkpoint.folder)
        if flaw is None:
            return checkpoint
        logger.warning(f"passing over {checkpoint.folder}: {flaw}")
    return None


def find_flaw(folder: Path) -> str | None:
    """Why a checkpoint is not complete; None if it is."""
    marker = folder / _COMPLETE
    if not marker.exists():
        return f"it has no {_COMPLETE}"
    for name, size in json.loads(marker.read_text())["files"].items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} were written"
    return None


def find(resume: str, run_folder: str | Path) -> Checkpoint | None:
    """What a run starts from.

    Args:
        resume: "auto" (the newest complete checkpoint of the run, if any), "none", or the path of a
            checkpoint or of another run. A run that has gone further than that path goes on from its
            own checkpoint, so that a repeated command does not repeat the work.
        run_folder: the experiment folder; "" for a run that has none yet.

    Raises:
        ValueError: "none" in a folder that has checkpoints, or a path without a complete one.
    """
    own = newest(run_folder) if run_folder else None
    if resume == "auto":
        return own
    if resume == "none":
        if own is not None:
            raise ValueError(
                f"TRAIN.RESUME is 'none', but {run_folder} has checkpoints up to step {own.step}; "
                "choose another --exp-dir, or resume with 'auto'"
            )
        return None
    given = _find_at(Path(resume))
    if own is not None and own.step > given.step:
        logger.info(
            f"{run_folder} has gone on to step {own.step} since {resume}, step {given.step}"
        )
        return own
    return given


def _find_at(path: Path) -> Checkpoint:
    """The checkpoint at `path`, or the newest one of the run at `path`."""
    match = _NAME.match(path.name)
    if match and find_flaw(path) is None:
        return Checkpoint(path, int(match["step"]))
    found = newest(path)
    if found is None:
        why = find_flaw(path) if match else "no complete checkpoint is in it"
        raise ValueError(
            f"TRAIN.RESUME is {str(path)!r}: {why}; give 'auto', 'none' or a checkpoint's folder"
        )
    return found


class CheckpointManager:
    """Writes and reads the checkpoints of a run.

    Args:
        run_folder: the experiment folder, seen by all processes.
        prefix: first part of the names of checkpoints.
        module: name of the network's folder, and of its part of the state ("transformer").
        loader: whose position is saved.
        ema: the running average of the first learning role, if one is kept.
        about: configuration and versions, kept for the reader.
        keep: how many checkpoints remain; 0 keeps all.
    """

    def __init__(
        self,
        run_folder: str | Path,
        *,
        prefix: str,
        module: str,
        loader: Resumable,
        ema: EMA | None,
        about: dict[str, Any],
        keep: int = 0,
    ) -> None:
        self.run_folder = Path(run_folder)
        self.prefix = prefix
        self.module = module
        self.loader = loader
        self.ema = ema
        self.about = about
        self.keep = keep

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint aside, make it durable, rename it. Collective.

        A torn checkpoint of the same step is replaced, a complete one is not.

        Raises:
            RuntimeError: the first process could not write; there, its own error.
        """
        name = f"{self.prefix}_iter_{trainer.step}"
        final = self.run_folder / "checkpoints" / name
        aside = final.with_name(f".{name}.tmp")
        _on_first(lambda: self._clear(aside))
        save_tensors(self._tensors(trainer), aside / "state")
        processes.barrier()
        _on_first(lambda: self._finish(trainer, aside, final))

    def load(self, checkpoint: Checkpoint, trainer: Trainer) -> None:
        """Put a run back to where it was saved. Collective.

        Raises:
            ValueError: names that the checkpoint or the run lacks.
        """
        run = checkpoint.run()
        saved = SavedTensors(checkpoint.folder / "state")
        for role in learning_roles(trainer):
            weights = saved.below(f"roles.{role}.{self.module}.")
            trainer.backend.load(role, weights, saved.below(f"optimizers.{role}."))
            scaler = trainer.backend.learners[role].scaler
            if scaler is not None:
                self._load_scaler(scaler, saved.below(f"scalers.{role}."))
        self._load_ema(saved, trainer)
        trainer.method.load_state_dict(saved.below("method.").full() | run["method"])
        self.loader.load_state_dict(run["loader"])
        trainer.step = run["step"]
        logger.info(f"resumed from {checkpoint.folder} at step {trainer.step}")

    def _tensors(self, trainer: Trainer) -> dict[str, Tensor]:
        """This process's share of everything, by its name on disk."""
        tensors: dict[str, Tensor] = {}
        for role in learning_roles(trainer):
            backend, scaler = trainer.backend, trainer.backend.learners[role].scaler
            tensors |= _under(f"roles.{role}.{self.module}", backend.weights(role))
            tensors |= _under(f"optimizers.{role}", backend.optimizer_state(role))
            if scaler is not None:
                tensors |= _under(f"scalers.{role}", scaler.state_dict())
        if self.ema is not None:
            tensors |= _under(f"ema.{learning_roles(trainer)[0]}.{self.module}", self.ema.tensors())
        state = trainer.method.state_dict()
        tensors |= _under("method", {k: v for k, v in state.items() if isinstance(v, Tensor)})
        return tensors

    def _finish(self, trainer: Trainer, aside: Path, final: Path) -> None:
        """On rank 0: add what others read, rename, forget what is too old."""
        role = learning_roles(trainer)[0]
        net = trainer.backend.learners[role].net
        saved = SavedTensors(aside / "state")
        weights = saved.below(f"roles.{role}.{self.module}.").full()
        save_network(net, weights, aside / self.module)
        self._write_run(trainer, aside)
        files.sync_tree(aside)
        files.write_json(aside / _COMPLETE, {"step": trainer.step, "files": files.sizes(aside)})
        if self.ema is not None:
            averaged = weights | saved.below(f"ema.{role}.{self.module}.").full()
            self._save_average(net, averaged, final.name)
        torn = final.exists() and find_flaw(final) is not None
        files.promote(aside, final, replace=torn)
        logger.info(f"saved {final}")
        self._forget()

    def _write_run(self, trainer: Trainer, folder: Path) -> None:
        state = trainer.method.state_dict()
        method = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
        run = {"step": trainer.step, "loader": self.loader.state_dict(), "method": method}
        files.write_json(folder / "run.json", run | {"about": self.about})

    def _save_average(self, net: Any, tensors: dict[str, Tensor], name: str) -> None:
        final = self.run_folder / "ema_checkpoints" / name
        aside = final.with_name(f".{name}.tmp")
        self._clear(aside)
        save_network(net, tensors, aside / self.module)
        files.promote(aside, final, replace=True)  # if there is one, its checkpoint is torn

    def _load_scaler(self, scaler: LossScaler, saved: SavedTensors) -> None:
        if saved.shapes():
            scaler.load_state_dict(saved.full())
        else:  # written in another precision, or by DeepSpeed, which scales by itself
            logger.warning(f"{saved.folder} holds no loss scale; that of float16 begins anew")

    def _load_ema(self, saved: SavedTensors, trainer: Trainer) -> None:
        if self.ema is None:
            return
        part = saved.below(f"ema.{learning_roles(trainer)[0]}.{self.module}.")
        if not part.shapes():
            raise ValueError(
                f"{saved.folder} holds no running average, and TRAIN.MODEL_EMA asks for one; set it to 0"
            )
        part.read(self.ema.tensors())

    def _clear(self, aside: Path) -> None:
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir(parents=True)

    def _forget(self) -> None:
        """Remove the oldest checkpoints, by time of writing, beyond the `keep` last ones."""
        if self.keep == 0:
            return
        folders = [
            p for p in (self.run_folder / "checkpoints").glob("*_iter_*") if p.name[0] != "."
        ]
        folders.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for folder in folders[self.keep :]:
            shutil.rmtree(folder)
            shutil.rmtree(self.run_folder / "ema_checkpoints" / folder.name, ignore_errors=True)
            logger.info(f"removed {folder}, older than the last {self.keep}")


def learning_roles(trainer: Trainer) -> list[str]:
    """Names of the roles whose networks move, in order."""
    return [role.name for role in trainer.method.roles if role.learns]


def _on_first(write: Callable[[], None]) -> None:
    """Write on the first process; if that fails, no other one goes on without it. Collective."""
    error: Exception | None = None
    if processes.rank() == 0:
        try:
            write()
        except Exception as caught:
            error = caught
    told = processes.broadcast(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    if told is not None:
        raise RuntimeError(f"the first process could not write the checkpoint: {told}")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
