# SPDX-License-Identifier: Apache-2.0
"""Batches of one bucket each: how many samples they have, when they go, and that none is lost."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from diffnext.data.batching import Batcher


@dataclass(frozen=True)
class Sample:
    bucket: str
    number: int
    nbytes: int


SIZES = {"small": 10, "large": 35, "huge": 200}


def batches_of(names, *, batch_size, waiting_bytes=10**9):
    samples = [Sample(name, number, SIZES[name]) for number, name in enumerate(names)]
    batcher = Batcher(batch_size, [SIZES[name] for name in names], waiting_bytes=waiting_bytes)
    batches = [batch for sample in samples for batch in batcher.add(sample.bucket, sample)]
    return samples, batches, list(batcher.rest())


def test_a_batch_goes_when_it_is_full_and_the_rest_at_the_end():
    _, full, rest = batches_of(["small"] * 7, batch_size=3)
    assert [[sample.number for sample in batch] for batch in full] == [[0, 1, 2], [3, 4, 5]]
    assert [[sample.number for sample in batch] for batch in rest] == [[6]]


def test_larger_samples_go_in_batches_of_no_more_pixels():
    _, full, _ = batches_of(["small", *["large"] * 6, *["huge"] * 2], batch_size=8)
    assert [(batch[0].bucket, len(batch)) for batch in full] == [
        ("large", 2),
        ("large", 2),
        ("large", 2),
        ("huge", 1),
        ("huge", 1),
    ]


def test_the_fullest_bucket_goes_when_too_much_is_waiting():
    names = ["small", "large", "small", "large", "small", "large"]
    _, early, rest = batches_of(names, batch_size=100, waiting_bytes=100)
    assert [[sample.number for sample in batch] for batch in early] == [[1, 3, 5]]
    assert [[sample.number for sample in batch] for batch in rest] == [[0, 2, 4]]


@given(
    names=st.lists(st.sampled_from(sorted(SIZES)), max_size=60),
    batch_size=st.integers(1, 9),
    waiting_bytes=st.integers(0, 400),
)
def test_every_sample_is_in_one_batch_of_its_bucket(names, batch_size, waiting_bytes):
    samples, full, rest = batches_of(names, batch_size=batch_size, waiting_bytes=waiting_bytes)
    assert Counter(sample for batch in full + rest for sample in batch) == Counter(samples)
    for batch in full + rest:
        assert len({sample.bucket for sample in batch}) == 1
        smallest = min(SIZES[name] for name in names)
        assert len(batch) == 1 or sum(s.nbytes for s in batch) <= batch_size * smallest
        assert [s.number for s in batch] == sorted(s.number for s in batch)
