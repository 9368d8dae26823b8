# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint holds: the run's tensors by name, and back from them to the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from diffnext.engine.backends.base import check_names, local
from diffnext.engine.ema import EMA
from diffnext.engine.scaler import LossScaler, ZeroScale
from diffnext.engine.tensors import SavedTensors
from diffnext.utils.logging import logger

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer

RESETS = ("lr", "optimizer", "ema", "data")  # what a load may leave out
RANDOM = (
    "a function of (seed, stream, epoch, record); no generator has a state that outlives a step"
)


class Resumable(Protocol):
    """Something with a position, such as a loader; its state is JSON."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Content:
    """The whole of a run, between two steps.

    Args:
        module: name of the network's part ("transformer").
        loader: whose position is kept.
        ema: the running averages of the first learning role, if any are kept.
    """

    def __init__(self, *, module: str, loader: Resumable, ema: EMA | None) -> None:
        self.module = module
        self.loader = loader
        self.ema = ema

    def tensors(self, trainer: Trainer, *, begin: int) -> dict[str, Tensor]:
        """This process's share of everything, live, by its name on disk. Collective.

        Args:
            begin: step at which the schedules have begun.
        """
        tensors: dict[str, Tensor] = {"random_state.seed": torch.tensor(trainer.seed)}
        for role in trainer.method.learning:
            backend, scaler = trainer.backend, trainer.backend.learners[role].scaler
            tensors |= _under(f"roles.{role}.{self.module}", backend.weights(role))
            tensors |= _under(f"optimizers.{role}", backend.optimizer_state(role))
            tensors[f"schedulers.{role}.begin"] = torch.tensor(begin)
            if scaler is not None:
                tensors |= _under(f"scalers.{role}", scaler.state_dict())
        for name, average in self.averages().items():
            tensors |= _under(f"{name}.{trainer.method.learning[0]}.{self.module}", average)
        tensors |= _under("method", _split(trainer.method.state_dict())[0])
        return tensors

    def averages(self) -> dict[str, dict[str, Tensor]]:
        """The running averages by name: "ema", and "ema_<decay>" for further ones."""
        return {} if self.ema is None else self.ema.parts()

    def run(self, trainer: Trainer) -> dict[str, Any]:
        """What is no tensor, as JSON."""
        method = _split(trainer.method.state_dict())[1]
        random = {"seed": trainer.seed, "scheme": RANDOM}
        loader = self.loader.state_dict()
        return {"step": trainer.step, "loader": loader, "method": method, "random_state": random}

    def restore(
        self, saved: SavedTensors, run: Mapping[str, Any], trainer: Trainer, *, resets: set[str]
    ) -> None:
        """Put a run back to where it was saved. Collective.

        Args:
            resets: what begins anew, of "optimizer", "ema" and "data".

        Raises:
            ValueError: names that the checkpoint or the run lacks.
        """
        counts = {"weights": 0, "optimizer": 0, "average": 0}
        for role in trainer.method.learning:
            weights = saved.below(f"roles.{role}.{self.module}.")
            optimizer = saved.below(f"optimizers.{role}.")
            trainer.backend.load(role, weights, Nothing() if "optimizer" in resets else optimizer)
            counts["weights"] += len(weights.shapes())
            counts["optimizer"] += 0 if "optimizer" in resets else len(optimizer.shapes())
            scaler = trainer.backend.learners[role].scaler
            if scaler is not None:
                _load_scaler(scaler, saved.below(f"scalers.{role}."))
        if "ema" in resets:
            self._restart_averages(trainer)
        else:
            counts["average"] = self._load_averages(saved, trainer)
        trainer.method.load_state_dict(saved.below("method.").full() | run["method"])
        position = dict(run["loader"])
        if "data" in resets:  # the place of this step in the new order
            position = self.loader.state_dict() | {"step": run["step"]}
        self.loader.load_state_dict(position)
        trainer.step = run["step"]
        if not counts["weights"]:
            raise ValueError(f"{saved.folder} holds no weights of {trainer.method.learning}")
        told = ", ".join(f"{count} of {name}" for name, count in counts.items())
        logger.info(f"loaded {sum(counts.values())} tensors: {told}")

    def _load_averages(self, saved: SavedTensors, trainer: Trainer) -> int:
        """Fill the averages; return the number of their tensors."""
        role, count = trainer.method.learning[0], 0
        wanted = self.averages()
        check_averages(saved, wanted, module=self.module)
        for name, average in wanted.items():
            part = saved.below(f"{name}.{role}.{self.module}.")
            whole = trainer.backend.learners[role].named_learning()
            check_names(f"{role}' of average '{name}", whole, part.shapes())
            part.read(average)
            count += len(part.shapes())
        return count

    @torch.no_grad()
    def _restart_averages(self, trainer: Trainer) -> None:
        weights = trainer.backend.weights(trainer.method.learning[0], learning=True)
        for average in self.averages().values():
            for name, value in average.items():
                local(value).copy_(local(weights[name]))


def check_averages(saved: SavedTensors, wanted: Iterable[str], *, module: str) -> None:
    """Compare the averages in a checkpoint with those that a run keeps.

    Raises:
        ValueError: they are not the same.
    """
    parts = {name.split(f".{module}.")[0] for name in saved.shapes() if name.startswith("ema")}
    held = sorted(part.rpartition(".")[0] for part in parts)  # without the role
    if held != sorted(wanted):
        raise ValueError(
            f"{saved.folder} holds the averages {held}, and TRAIN.MODEL_EMA and TRAIN.EXTRA_EMA ask for "
            f"{sorted(wanted)}; restore these options, or begin the averages anew at the loaded weights "
            "by --reset-ema"
        )


class Nothing:
    """An empty set of saved tensors."""

    def shapes(self) -> dict[str, torch.Size]:
        return {}

    def read(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill nothing."""


def _load_scaler(scaler: LossScaler | ZeroScale, saved: SavedTensors) -> None:
    if saved.shapes():
        scaler.load_state_dict(saved.full())
    else:  # written in another precision
        logger.warning(f"{saved.folder} holds no loss scale; that of float16 begins anew")


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state, and the rest."""
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in state.items() if key not in tensors}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
