# SPDX-License-Identifier: Apache-2.0
"""Random numbers that belong to a sample, not to a process or to a moment.

A draw depends on (seed, stream, sample) alone. One process or eight, one micro-batch or four, an
uninterrupted run or a resumed one: a sample meets the same noise, and no generator state has to be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffnext.utils.mixing import mix


class Draws:
    """The random numbers of a batch, one independent source a sample.

    An object continues: its second draw differs from its first. `stream` begins anew each time, so
    that streams of one name draw the same numbers; who draws twice for a purpose keeps the object.
    A purpose that another part of the code must not disturb takes a stream of its own name.

    Args:
        seed: the run's seed.
        step: the optimizer step; only `shared` depends on it.
        keys: one tuple of integers a sample; (epoch, record number) while training.
        device: where the numbers are made and returned.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        keys: Sequence[tuple[int, ...]],
        *,
        device: torch.device | str = "cpu",
        name: str = "",
    ) -> None:
        self.seed = seed
        self.step = step
        self.keys = [tuple(key) for key in keys]
        self.device = torch.device(device)
        self.name = name
        self._generators: list[torch.Generator] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def stream(self, name: str) -> Draws:
        """An independent source for another purpose, at its beginning."""
        path = f"{self.name}/{name}"
        return Draws(self.seed, self.step, self.keys, device=self.device, name=path)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers, (B, *shape) float32."""
        return self._stack(lambda g: torch.randn(shape, generator=g, device=self.device))

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (B, *shape) float32."""
        return self._stack(lambda g: torch.rand(shape, generator=g, device=self.device))

    def randint(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high), (B, *shape) int64."""
        return self._stack(lambda g: torch.randint(high, shape, generator=g, device=self.device))

    def permutation(self, count: int) -> Tensor:
        """One order of `count` things a sample, (B, count) int64."""
        return self._stack(lambda g: torch.randperm(count, generator=g, device=self.device))

    def shared(self) -> torch.Generator:
        """A CPU generator that depends on (seed, step, stream): for draws common to the global batch."""
        return torch.Generator().manual_seed(mix(self.seed, "shared", self.name, self.step))

    def _stack(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        if self._generators is None:
            self._generators = [self._generator(key) for key in self.keys]
        return torch.stack([draw(generator) for generator in self._generators])

    def _generator(self, key: tuple[int, ...]) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(mix(self.seed, self.name, *key))
