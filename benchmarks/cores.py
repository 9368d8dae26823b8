# SPDX-License-Identifier: Apache-2.0
"""Cores of their own for decoding and for an autoencoder on the CPU, so that neither slows the other."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cores:
    """Which cores a stage may use; empty: any."""

    encode: frozenset[int] = frozenset()
    decode: frozenset[int] = frozenset()

    def __str__(self) -> str:
        if not self.encode:
            return "no stage has cores of its own"
        return f"decoding on cores {sorted(self.decode)}, encoding on {sorted(self.encode)}"


def divide_cores(args: argparse.Namespace) -> Cores:
    """Cores for the autoencoder, as many as its threads, and the rest for the workers."""
    if args.device != "cpu" or not hasattr(os, "sched_setaffinity"):
        return Cores()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) <= args.threads:
        return Cores()
    return Cores(frozenset(cores[: args.threads]), frozenset(cores[args.threads :]))


def pin(cores: Cores) -> None:
    """Keep this thread and those that it starts from now on to their cores, and the processes that
    there are to theirs."""
    if cores.encode:
        os.sched_setaffinity(0, cores.encode)
        for children in Path("/proc/self/task").glob("*/children"):
            for process in children.read_text().split():
                os.sched_setaffinity(int(process), cores.decode)
