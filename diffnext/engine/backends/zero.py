# SPDX-License-Identifier: Apache-2.0
"""A network in DeepSpeed's hands: where ZeRO keeps its weights, and the state of its optimizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diffnext.distributed import env as processes
from diffnext.engine.backends.base import Learner, TensorReader
from diffnext.engine.backends.steps import state_device


def load_deepspeed() -> Any:
    """Import deepspeed, on a machine without GPU for its CPU.

    Raises:
        ValueError: it is not installed.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise ValueError("the deepspeed backend needs deepspeed: pip install deepspeed") from error
    # Only inference sums over shared memory. Without this, DeepSpeed compiles that at the first start
    # (a build that is killed leaves a lock that every later start waits for) and keeps 66 MiB of
    # /dev/shm a process, which nobody frees after a crash.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@dataclass
class Engine(Learner):
    """A network that learns, at a stage of ZeRO; `wrapped` is its Entrance.

    From stage 1 on it is held in the precision of the run. Float32 masters are laid side by side in flat
    pieces, of which each process has a part, and the optimizer steps these.
    """

    engine: Any = field(kw_only=True)  # of DeepSpeed
    stage: int = field(kw_only=True)
    fixed: dict[str, Tensor] = field(
        default_factory=dict
    )  # what does not learn, in its own precision
    reached: set[str] = field(default_factory=set)  # parameters that a gradient came to
    watches: list[Any] = field(default_factory=list)  # hooks that fill `reached`

    # ------------------------------------------------------------------------ whole parameters

    def master(self, param: nn.Parameter) -> Tensor:
        """The float32 values of a parameter. Collective."""
        if self.stage == 0:
            return param
        return load_deepspeed().utils.safe_get_full_fp32_param(param)

    def put_master(self, param: nn.Parameter, value: Tensor) -> None:
        """Write the float32 values of a parameter, and what is computed with. Collective."""
        if self.stage > 0:
            load_deepspeed().utils.safe_set_full_fp32_param(param, value)
        self.put_copy(param, value)

    def put_copy(self, param: nn.Parameter, value: Tensor) -> None:
        """Write the values that the network computes with. Collective."""
        gathered = load_deepspeed().zero.GatheredParameters([param], modifier_rank=0)
        with gathered, torch.no_grad():
            if self.stage < 3 or processes.rank() == 0:
                param.copy_(value)

    def put_fixed(self) -> None:
        """Write what does not learn. Collective."""
        params, buffers = dict(self.net.named_parameters()), dict(self.net.named_buffers())
        for name, value in self.fixed.items():
            if name in params:
                self.put_copy(params[name], value)
            else:
                buffers[name].copy_(value)

    # ----------------------------------------------------------------------------- flat pieces

    def flat(self) -> list[Tensor]:
        """The flat float32 pieces that ZeRO's optimizer steps in place of the parameters."""
        if self.stage == 3:
            return self.engine.optimizer.fp32_partitioned_groups_flat
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def link(self) -> None:
        """Tell parameters where their optimizer state is.

        DeepSpeed does so in the first step, when only the first group of parameters has a state.
        """
        if self.stage == 3:
            return
        link = load_deepspeed().utils.lazy_init_hp_params_optimizer_state
        groups = self.engine.optimizer.bit16_groups
        for params, flat in zip(groups, self.flat(), strict=True):
            if flat in self.optimizer.state:
                link(params, flat, self.optimizer.state)

    def state_of(self, param: nn.Parameter, *, key: str) -> Tensor:
        """The optimizer's state of a parameter that has its shape. Collective."""
        return load_deepspeed().utils.safe_get_full_optimizer_state(param, key)

    def fill_state(self, reader: TensorReader, device: torch.device) -> None:
        """Fill the state of the flat pieces from the state of whole parameters. Collective."""
        shapes, learning = reader.shapes(), self.named_learning()
        whole: list[str] = []  # "<weight>.<field>" of the shape of the weight
        common: dict[str, Tensor] = {}  # by field: the same for all, such as Adam's step
        for name, shape in shapes.items():
            weight, _, key = name.rpartition(".")
            if shape == full_shape(learning[weight]):
                whole.append(name)
            elif key not in common:
                beside = self.flat()[0]
                place = state_device(self.optimizer, key, beside=beside)
                common[key] = torch.zeros(shape, device=place)
                reader.read({name: common[key]})
        self._begin_state(sorted({name.rpartition(".")[2] for name in whole}), common)
        for name in sorted(whole):
            weight, _, key = name.rpartition(".")
            value = torch.empty(shapes[name], device=device)
            reader.read({name: value})
            load_deepspeed().utils.safe_set_full_optimizer_state(learning[weight], value, key)

    def _begin_state(self, keys: Sequence[str], common: dict[str, Tensor]) -> None:
        """Give each piece a state: zeros of its shape, and copies of what is the same for all."""
        for flat in self.flat():
            state = self.optimizer.state[flat]
            state |= {key: torch.zeros_like(flat, requires_grad=False) for key in keys}
            state |= {key: value.clone() for key, value in common.items()}
        self.link()


def full_shape(param: nn.Parameter) -> torch.Size:
    """Shape of a parameter, also where stage 3 holds only a piece of it."""
    return getattr(param, "ds_shape", param.shape)
