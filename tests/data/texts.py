# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a text encoder: the state of a letter is its number, in each of a few columns."""

import numpy as np

WIDTH = 4


def states_of(text):
    """What is stored of a text: (letters, WIDTH) float16."""
    return np.repeat(np.array([*map(ord, text)], np.float16)[:, None], WIDTH, axis=1)


class Encoder:
    """Counts what it is asked for.

    Args:
        most: texts that fit into memory.
        huge: texts whose states are beyond float16.
    """

    def __init__(self, most=1000, huge=()):
        self.most, self.huge = most, huge
        self.batches = []

    def __call__(self, texts):
        if len(texts) > self.most:
            raise RuntimeError("CUDA out of memory")
        self.batches.append(list(texts))
        states = [states_of(text).astype(np.float32) for text in texts]
        return [
            1e6 * one if text in self.huge else one for text, one in zip(texts, states, strict=True)
        ]
