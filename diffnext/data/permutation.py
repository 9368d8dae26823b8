# SPDX-License-Identifier: Apache-2.0
"""A random order of any number of things, computed where it is asked for, in constant memory.

An unbalanced Feistel network permutes the numbers below a power of two; a result that is not below
`count` is put through it again until it is ("cycle walking", Black and Rogaway 2002), which
permutes the numbers below `count`. The order is a matter of integer arithmetic: it is the same on
every machine and with every version of every library.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 8  # four uses of each half; fewer leave orders of small sets visibly uneven
MIN_BITS = 6  # below this a round has too few outcomes to reach most orders
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the step between the keys of rounds


def permute(position: np.ndarray, count: int, key: np.ndarray) -> np.ndarray:
    """Where `position` goes in the order of `count` things that belongs to `key`.

    Args:
        position: integers in [0, count).
        count: how many things there are, at least 1 and below 2**62.
        key: non-negative integers of the same shape; each one names another order.

    Returns:
        int64 in [0, count), of the same shape.
    """
    if count == 1:
        return np.zeros(np.shape(position), np.int64)
    bits = max(MIN_BITS, (count - 1).bit_length())
    keys = np.asarray(key).astype(np.uint64)
    out = _network(np.asarray(position).astype(np.uint64), keys, bits)
    outside = np.flatnonzero(out >= count)
    while len(outside):
        out[outside] = _network(out[outside], keys[outside], bits)
        outside = outside[out[outside] >= count]
    return out.astype(np.int64)


def _network(x: np.ndarray, key: np.ndarray, bits: int) -> np.ndarray:
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << bits // 2) - 1)
    high_mask = np.uint64((1 << bits - bits // 2) - 1)
    high, low = x >> low_bits, x & low_mask
    for i in range(ROUNDS):
        round_key = key + np.uint64(GOLDEN * (i + 1) % (1 << 64))
        if i % 2:
            low = low ^ (_scramble(high + round_key) & low_mask)
        else:
            high = high ^ (_scramble(low + round_key) & high_mask)
    return high << low_bits | low


def _scramble(z: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
