# SPDX-License-Identifier: Apache-2.0
"""The contract between a training algorithm and the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from diffnext.pipelines.train_base import Inputs, StepOutput, TrainPipeline


@dataclass(frozen=True)
class Role:
    """A network of the algorithm. One that learns has an optimizer and a schedule."""

    name: str
    learns: bool = False


@dataclass(frozen=True)
class Round:
    """One optimizer step: the roles that move, and the micro-batches their gradients are summed over."""

    roles: tuple[str, ...]
    inputs: Sequence[Inputs]


class TrainingMethod(ABC):
    """One training algorithm. Holds networks by role; no optimizer, no configuration, no loader.

    A subclass takes its options as keyword-only parameters after `nets`; METHOD.CONFIG is matched
    against their names.

    Args:
        pipe: the family of networks that is trained.
        nets: the (wrapped) network of each role.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role("student", learns=True),)
    needs: ClassVar[type[TrainPipeline]] = TrainPipeline

    def __init__(self, pipe: TrainPipeline, nets: Mapping[str, nn.Module]) -> None:
        if not isinstance(pipe, self.needs):
            raise ValueError(
                f"{type(self).__name__} needs a {self.needs.__name__}; {type(pipe).__name__} is none"
            )
        self.pipe = pipe
        self.nets = nets

    @property
    def learning(self) -> list[str]:
        """Names of the roles that learn; the first is the one that is averaged, evaluated and exported."""
        return [role.name for role in self.roles if role.learns]

    def rounds(self, inputs: Sequence[Inputs], step: int) -> Iterator[Round]:
        """The optimizer steps of one training step. Lazy: a later round may depend on an earlier one."""
        yield Round(("student",), inputs)

    @abstractmethod
    def loss(self, role: str, inputs: Inputs, step: int) -> StepOutput:
        """What `role` minimises on this micro-batch.

        Other networks that learn hold still: a loss may pass through them and leaves them no gradient.
        """

    def after_step(self, step: int) -> Mapping[str, float]:
        """What happens after the optimizers have moved (targets, phases); returns metrics."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the algorithm itself must remember to go on; networks are saved elsewhere."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")
