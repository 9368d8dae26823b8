# SPDX-License-Identifier: Apache-2.0
"""How a backend shards a network over processes, as far as memory tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_ZERO = {  # numbers that decide how much memory ZeRO takes, with DeepSpeed's defaults: numbers, not bytes
    "reduce_bucket_size": 500_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    "sub_group_size": 1_000_000_000,
}


@dataclass(frozen=True)
class Zero:
    """What DeepSpeed's json says of ZeRO; sizes count numbers.

    Args:
        stage: from 1 on the network is held in the precision of the run, beside split float32 masters.
        reduce_bucket: gradients that are exchanged at a time; memory for so many is taken at once.
        prefetch: weights that stage 3 gathers ahead at a time.
        live: weights beyond which it gathers none ahead.
        reuse: weights that it keeps whole if they are used again before so many others.
        sub_group: weights that it updates at a time.
        overlap: whether gradients are exchanged while the next ones come.
        contiguous: whether gradients are copied into a buffer before they are exchanged.
    """

    stage: int = 0
    reduce_bucket: int = _ZERO["reduce_bucket_size"]
    prefetch: int = _ZERO["stage3_prefetch_bucket_size"]
    live: int = _ZERO["stage3_max_live_parameters"]
    reuse: int = _ZERO["stage3_max_reuse_distance"]
    sub_group: int = _ZERO["sub_group_size"]
    overlap: bool = False
    contiguous: bool = True


@dataclass(frozen=True)
class Sharding:
    """How a backend shards a network.

    Args:
        zero: of deepspeed.
        replicate, reshard, gather_dtype: of fsdp.
        host: parts that are offloaded.
        accum_steps: micro-batches of a step.
    """

    backend: str
    world: int
    precision: str
    zero: Zero = field(default_factory=Zero)
    replicate: int = 1
    reshard: bool = True
    gather_dtype: str = "float32"
    host: tuple[str, ...] = ()
    accum_steps: int = 1

    @property
    def stage(self) -> int:
        return self.zero.stage

    @property
    def whole_gradients(self) -> bool:
        """Whether each process of ZeRO holds all gradients, which are exchanged at the end of a step."""
        early = self.zero.overlap and self.accum_steps == 1
        return self.stage == 1 and not early

    @property
    def shards(self) -> int:
        """Processes that share one copy of the network."""
        return max(self.world // self.replicate, 1) if self.backend == "fsdp" else self.world

    @property
    def casts_weights(self) -> bool:
        """Whether a forward makes copies of float32 weights in `precision`, and backward keeps them."""
        low = self.stage > 0 or self.gather_dtype != "float32"
        return self.precision != "float32" and not low


def sharding_of(
    backend: str, options: Mapping[str, Any], *, world: int, precision: str, accum_steps: int = 1
) -> Sharding:
    """Read the options of a backend.

    Raises:
        ValueError: a size in DeepSpeed's json is no number.
    """
    if backend == "fsdp":
        return Sharding(
            backend,
            world,
            precision,
            replicate=options.get("replicate", 1),
            reshard=options.get("reshard", True),
            gather_dtype=options.get("gather_dtype", "float32"),
            host=("weights", "gradients", "optimizer") if options.get("offload") else (),
            accum_steps=accum_steps,
        )
    section = options.get("config", {}).get("zero_optimization", {})
    host: tuple[str, ...] = ()
    if _offloaded(section, "offload_optimizer"):
        host += ("gradients", "optimizer")
    if _offloaded(section, "offload_param"):
        host += ("weights",)
    return Sharding(
        backend, world, precision, zero=_zero_of(section), host=host, accum_steps=accum_steps
    )


def _zero_of(section: Mapping[str, Any]) -> Zero:
    sizes = {key: _size(section, key) for key in _ZERO}
    return Zero(
        stage=int(section.get("stage", 0)),
        reduce_bucket=sizes["reduce_bucket_size"],
        prefetch=sizes["stage3_prefetch_bucket_size"],
        live=sizes["stage3_max_live_parameters"],
        reuse=sizes["stage3_max_reuse_distance"],
        sub_group=sizes["sub_group_size"],
        overlap=bool(section.get("overlap_comm")),
        contiguous=section.get("contiguous_gradients", True),
    )


def _size(section: Mapping[str, Any], key: str) -> int:
    found = section.get(key, _ZERO[key])
    try:
        return int(float(found))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"the DeepSpeed json has zero_optimization.{key} {found!r}, wanted a number such as "
            f"{_ZERO[key]}"
        ) from error


def _offloaded(section: Mapping[str, Any], part: str) -> bool:
    return (section.get(part) or {}).get("device", "none") != "none"
