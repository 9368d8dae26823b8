# SPDX-License-Identifier: Apache-2.0
"""Recorded checkpoints and numbers of the original, where this machine has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("DIFFNEXT_PARITY", HERE.parents[1] / "../shared/parity"))


def folder(name: str) -> Path:
    """A recorded checkpoint; the test, or the module that asks, is skipped where there is none."""
    path = FOLDER / name
    if not path.is_dir():
        pytest.skip(f"no recorded checkpoint at {path} (DIFFNEXT_PARITY)", allow_module_level=True)
    return path


def vectors(name: str) -> dict[str, torch.Tensor]:
    """The recorded inputs and outputs of a checkpoint."""
    return load_file(folder(name) / "vectors.safetensors")


def assert_near(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    """Fail unless the greatest deviation is below `tolerance` times the greatest wanted value."""
    assert found.shape == wanted.shape
    deviation = ((found.float() - wanted.float()).abs().max() / wanted.float().abs().max()).item()
    assert deviation < tolerance, f"relative deviation {deviation:.2g}, at most {tolerance:.2g}"
