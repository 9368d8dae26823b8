# SPDX-License-Identifier: Apache-2.0
"""How the channels of moments are divided: the means of all latent channels, then log variances."""

from __future__ import annotations

from typing import TypeVar

Array = TypeVar("Array")  # of numpy or torch


def latent_channels(count: int) -> int:
    """Latent channels C of so many channels of moments: of 2C half, of an odd number all but the last.

    Autoencoders with one log variance for all channels (LTX-Video as NOVA has it) give C + 1 of them.
    """
    return count - 1 if count % 2 else count // 2


def split_moments(moments: Array) -> tuple[Array, Array]:
    """Means (C, ...) and log variances (C, ...) or (1, ...) of moments (2C, ...) or (C + 1, ...)."""
    channels = latent_channels(len(moments))
    return moments[:channels], moments[channels:]
