# SPDX-License-Identifier: Apache-2.0
"""The order of samples: complete, random, and a function of seed and global batch alone."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffnext.data.buckets import Bucket, Part, group
from diffnext.data.sampler import Sampler
from tests.data.toy_reader import ToyReader

SHAPES = [(4, 2, 3), (4, 3, 2), (4, 2, 2, 3)]
datasets = st.lists(st.sampled_from(SHAPES), min_size=1, max_size=40)


def first_epochs(sampler: Sampler, epochs: int) -> list:
    return [sampler[number] for number in range(sampler.first_of(epochs))]


@given(datasets, st.integers(1, 50), st.integers(0, 2**32))
def test_every_sample_once_an_epoch_in_batches_of_one_shape(shapes, size, seed):
    sampler = Sampler(group([ToyReader(shapes)]), global_batch=size, seed=seed)
    epochs = 3 * size  # enough for every bucket to fill whole batches only
    drawn = Counter()
    for batch in first_epochs(sampler, epochs):
        assert len(batch.index) == size
        stored = {shapes[i] if len(shapes[i]) == 4 else (4, 1, *shapes[i][1:]) for i in batch.index}
        assert stored == {batch.shape}
        drawn.update(zip(batch.epoch.tolist(), batch.index.tolist(), strict=True))
    wanted = {(epoch, index) for epoch in range(epochs) for index in range(len(shapes))}
    assert drawn == Counter(wanted)


@given(datasets, st.integers(1, 50), st.integers(1, 4))
def test_less_than_a_batch_of_each_bucket_is_carried_on(shapes, size, epochs):
    sampler = Sampler(group([ToyReader(shapes)]), global_batch=size, seed=1)
    drawn = [
        key for b in first_epochs(sampler, epochs) for key in zip(b.epoch, b.index, strict=True)
    ]
    assert len(set(drawn)) == len(drawn)
    assert len(drawn) > epochs * len(shapes) - size * len(set(shapes))
    assert all(epoch < epochs for epoch, _ in drawn)


@given(datasets, st.integers(1, 20), st.integers(0, 300))
def test_any_batch_can_be_asked_for(shapes, size, number):
    """The same from a fresh sampler at once as by going there."""
    buckets = group([ToyReader(shapes)])
    going = Sampler(buckets, global_batch=size, seed=9)
    walked = [going[i] for i in range(number + 1)][-1]
    jumped = Sampler(buckets, global_batch=size, seed=9)[number]
    assert walked.index.tolist() == jumped.index.tolist()
    assert walked.epoch.tolist() == jumped.epoch.tolist()
    epoch = going.epoch_of(number)
    assert going.first_of(epoch) <= number < going.first_of(epoch + 1)


def test_seeds_and_epochs_give_other_orders():
    buckets = group([ToyReader(SHAPES[:1] * 100)])
    first = Sampler(buckets, global_batch=100, seed=1)
    second = Sampler(buckets, global_batch=100, seed=2)
    orders = [first[0], first[1], second[0]]
    assert len({tuple(batch.index) for batch in orders}) == 3
    assert [set(batch.epoch) for batch in orders] == [{0}, {1}, {0}]


def test_buckets_are_mixed_within_an_epoch():
    shapes = SHAPES[:1] * 200 + SHAPES[1:2] * 200
    sampler = Sampler(group([ToyReader(shapes)]), global_batch=2, seed=0)
    kinds = [sampler[number].shape for number in range(200)]
    changes = sum(a != b for a, b in pairwise(kinds))
    assert kinds.count(kinds[0]) == 100 and 70 < changes < 130


def test_one_sample_fills_any_batch():
    sampler = Sampler(group([ToyReader(SHAPES[:1])]), global_batch=16, seed=0)
    assert sampler[2].index.tolist() == [0] * 16
    assert sampler[2].epoch.tolist() == list(range(32, 48))
    assert sampler.epoch_of(2) == 47


@given(
    st.lists(st.tuples(datasets, st.sampled_from([0.3, 0.5, 1, 2, 2.5])), min_size=2, max_size=3),
    st.integers(1, 12),
)
@settings(max_examples=50)
def test_weighted_datasets_go_through_their_own_epochs(mixture, size):
    readers = [ToyReader(shapes, path=str(i)) for i, (shapes, _) in enumerate(mixture)]
    buckets = group(readers, [weight for _, weight in mixture])
    epochs = 4
    sampler = Sampler(buckets, global_batch=size, seed=3)
    while any(epochs * bucket.take % size for bucket in buckets):
        epochs += 1
    drawn = Counter()
    for batch in first_epochs(sampler, epochs):
        drawn.update(zip(batch.index.tolist(), batch.epoch.tolist(), strict=True))
    assert set(drawn.values()) == {1}
    times = Counter(index for index, _ in drawn)
    for part in (part for bucket in buckets for part in bucket.parts):
        counts = [times[int(i)] for i in part.records(np.arange(part.count))]
        assert sum(counts) == epochs * part.take
        assert max(counts) - min(counts) <= 1


def test_a_hundred_million_records_take_no_memory():
    count = 10**8
    tracemalloc.start()
    sampler = Sampler([Bucket((4, 1, 2, 3), (Part(0, count, count),))], global_batch=64, seed=0)
    indices = np.concatenate([sampler[n].index for n in (0, 10**6, 10**7)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6 and indices.max() < count and len(set(indices.tolist())) > 150


def test_a_batch_has_a_sample():
    with pytest.raises(ValueError, match="global batch of 0"):
        Sampler([], global_batch=0, seed=0)
