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


def permute(position: np.ndarray, count: int | np.ndarray, key: np.ndarray) -> np.ndarray:
    """Where `position` goes in the order of `count` things that belongs to `key`.

    Args:
        position: (n,) integers in [0, count).
        count: how many things there are, at least 1 and below 2**48; one number or (n,).
        key: (n,) non-negative integers; each one names another order.

    Returns:
        (n,) int64 in [0, count).
    """
    out = np.array(position, np.uint64)
    counts = np.broadcast_to(np.asarray(count, np.uint64), out.shape)
    keys = np.asarray(key).astype(np.uint64)
    bits = np.maximum(np.frexp(np.maximum(counts, 2) - np.uint64(1))[1], MIN_BITS).astype(np.uint64)
    todo = np.flatnonzero(counts > 1)
    while len(todo):
        out[todo] = _network(out[todo], keys[todo], bits[todo])
        todo = todo[out[todo] >= counts[todo]]
    return out.astype(np.int64)


def _network(x: np.ndarray, key: np.ndarray, bits: np.ndarray) -> np.ndarray:
    one = np.uint64(1)
    low_bits = bits >> one
    low_mask = (one << low_bits) - one
    high_mask = (one << bits - low_bits) - one
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
