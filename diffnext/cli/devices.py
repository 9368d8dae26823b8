# SPDX-License-Identifier: Apache-2.0
"""The device, the precision and the cores that a command takes, beside others on its node."""

from __future__ import annotations

import os

from diffnext.cli.ranks import local_count, local_rank

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def pick_device(device: str, dtype: str):
    """Resolve `auto`, and check that the device is there. Returns its name and a torch type."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and torch.cuda.is_available():  # the processes of a node share its devices
        device = f"cuda:{local_rank() % torch.cuda.device_count()}"
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"--device {device}: torch {torch.__version__} finds {count} CUDA devices")
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    return device, getattr(torch, DTYPES.get(dtype, dtype))


def pick_workers(device: str) -> int:
    """One a core beside a GPU; few beside an autoencoder that needs the cores itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = max(1, cores // local_count())  # the processes of a node share its cores
    return min(cores, 16) if device.startswith("cuda") else max(1, cores // 4)
