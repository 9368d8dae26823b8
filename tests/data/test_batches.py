# SPDX-License-Identifier: Apache-2.0
"""Damaged records: named, or replaced alike in any layout. Where the time goes."""

from __future__ import annotations

import time
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffnext.data.loader import Loader
from diffnext.data.records import DamagedRecord, RecordError, open_reader, open_writer
from tests.data.toy_reader import ToyReader

WIDE, TALL = (4, 2, 3), (4, 3, 2)
FIELDS = {"moments": "bytes", "shape": ["int64"], "caption": "string"}


def toys(damaged=((), ())):
    shapes = [[WIDE, TALL, WIDE] * 5, [TALL] * 7]
    pairs = zip(shapes, damaged, "ab", strict=True)
    return [ToyReader(found, path=path, damaged=bad) for found, bad, path in pairs]


def keys(steps, *, world=1, threads=0, damaged=((), ()), **options):
    """Keys of `steps` global batches of 6, and how many samples were replaced."""
    loaders = [
        Loader(
            toys(damaged),
            batch_size=6 // world,
            rank=r,
            world=world,
            num_threads=threads,
            **options,
        )
        for r in range(world)
    ]
    found = [[key for loader in loaders for key in next(loader).keys()] for _ in range(steps)]
    for loader in loaders:
        loader.close()
    return found, sum(loader.damaged for loader in loaders)


def test_a_damaged_record_stops_the_run_and_is_named():
    with pytest.raises(DamagedRecord, match="b record 3 is damaged"):
        keys(20, damaged=((), [3]))


@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize(("world", "threads"), [(1, 0), (3, 0), (2, 2)])
def test_the_next_of_its_dataset_and_shape_stands_in(world, threads):
    """Worked out by hand: of dataset a, 2 and 3 are WIDE neighbours and 13 is the last TALL."""
    clean, _ = keys(30)
    after = {2: 5, 3: 5, 13: 1, 15 + 6: 15 + 0}
    wanted = [[(epoch, after.get(index, index)) for epoch, index in step] for step in clean]
    found, count = keys(
        30, world=world, threads=threads, damaged=([2, 3, 13], [6]), on_damage="skip"
    )
    assert found == wanted
    replaced = sum(index in after for step in clean for _, index in step)
    assert count == replaced if not threads else count >= replaced


def test_a_damaged_record_is_told_of_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keys(30, damaged=([2, 4], [6]), on_damage="skip")
    found = sorted(str(warning.message) for warning in caught)
    names = ["a record 2", "a record 4", "b record 6"]
    assert found == [f"{name} is damaged; the next record is read instead" for name in names]


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_nothing_stands_in_where_all_is_damaged():
    with pytest.raises(RecordError, match="no record can stand in for b record"):
        keys(20, damaged=((), range(7)), on_damage="skip")


def test_another_way_to_meet_damage_is_refused():
    with pytest.raises(ValueError, match="on_damage is 'ignore', wanted one of"):
        keys(1, on_damage="ignore")


mixtures = st.lists(
    st.tuples(
        st.lists(st.sampled_from([WIDE, TALL]), min_size=1, max_size=12),
        st.sampled_from([0.5, 1, 2, 2.5]),
        st.sets(st.integers(0, 11), max_size=3),
    ),
    min_size=1,
    max_size=3,
)
layouts = st.sampled_from([(1, 1), (2, 1), (1, 4), (2, 2), (4, 1)])


def draw(mixture, seed, layout, steps, start=None):
    """Keys of `steps` global batches of 4 samples, and the position after them."""
    world, accum = layout
    options = {"batch_size": 4 // (world * accum), "accum_steps": accum, "world": world}
    options |= {"seed": seed, "num_threads": 0, "on_damage": "skip"}
    readers = [ToyReader(s, damaged=bad, path=str(i)) for i, (s, _, bad) in enumerate(mixture)]
    weights = [weight for _, weight, _ in mixture]
    loaders = [Loader(readers, rank=r, weights=weights, **options) for r in range(world)]
    for loader in loaders:
        loader.load_state_dict(start or loader.state_dict())
    found = [
        [key for _ in range(accum) for loader in loaders for key in next(loader).keys()]
        for _ in range(steps)
    ]
    return found, loaders[0].state_dict()


def stand_in(mixture, index):
    """By going from record to record, as a person would."""
    places = [(d, i) for d, (shapes, _, _) in enumerate(mixture) for i in range(len(shapes))]
    dataset, first = places[index]
    shapes, _, bad = mixture[dataset]
    for step in range(len(shapes)):
        other = (first + step) % len(shapes)
        if shapes[other] == shapes[first] and other not in bad:
            return places.index((dataset, other))
    return None


@pytest.mark.filterwarnings("ignore:.*is damaged")
@given(mixtures, layouts, layouts, st.integers(0, 2**32), st.integers(0, 8))
@settings(max_examples=40)
def test_any_mixture_in_any_layout_from_anywhere(mixture, layout, other, seed, at):
    """Weights, several datasets and damage: the order without damage, with stand-ins, for any number
    of processes and micro-batches, from the start or resumed by others.
    """
    clean, _ = draw([(shapes, weight, ()) for shapes, weight, _ in mixture], seed, (1, 1), 8)
    wanted = [[(epoch, stand_in(mixture, index)) for epoch, index in step] for step in clean]
    if any(index is None for step in wanted for _, index in step):
        with pytest.raises(RecordError, match="no record can stand in"):
            draw(mixture, seed, layout, 8)
        return
    begun, state = draw(mixture, seed, layout, at)
    rest, _ = draw(mixture, seed, other, 8 - at, state)
    assert begun + rest == wanted


# ------------------------------------------------------------------------ with folders on disk


def write(folder, count):
    with open_writer(folder, FIELDS) as writer:
        for i in range(count):
            row = {"moments": np.full(WIDE, i, "<f2"), "shape": WIDE, "caption": f"{i}. More."}
            writer.write(row)
    return open_reader(folder)


def flip(folder, number):
    """Change a bit in the middle of a record: in its moments."""
    _, offset, size, _ = open_reader(folder).index.locate(number)
    with open(folder / "00000.data", "r+b") as stream:
        stream.seek(offset + size // 2)
        value = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([value ^ 1]))


@pytest.mark.parametrize("threads", [0, 2])
def test_a_changed_bit_stops_is_skipped_or_passes(tmp_path, threads):
    reader = write(tmp_path, 9)
    flip(tmp_path, 4)
    options = {"batch_size": 3, "num_threads": threads}
    loader = Loader(reader, **options)
    with pytest.raises(
        DamagedRecord, match=r"00000\.data record 4 .* is damaged: its bytes have the"
    ):
        for _ in range(6):
            next(loader)
    loader.close()

    loader = Loader(reader, on_damage="skip", **options)
    with pytest.warns(UserWarning, match="record 4 .* the next record is read instead"):
        batches = [next(loader) for _ in range(6)]
    found = Counter(index for batch in batches for index in batch.index.tolist())
    assert found == {i: 2 for i in range(9) if i not in (4, 5)} | {5: 4}
    for batch in batches:
        assert torch.equal(batch.moments[:, 0, 0, 0, 0].long(), batch.index)
    assert loader.damaged >= 2
    loader.close()

    loader = Loader(reader, verify=False, **options)
    pictures = {
        i: m
        for _ in range(3)
        for b in [next(loader)]
        for i, m in zip(b.index.tolist(), b.moments, strict=True)
    }
    assert [len(pictures[i].unique()) for i in range(9)] == [1 + (i == 4) for i in range(9)]
    loader.close()


def test_the_time_is_told_by_what_it_was_spent_on(tmp_path, monkeypatch):
    reader = write(tmp_path, 9)
    read, check = reader._files.read_into, reader._check

    def slow_read(jobs):
        time.sleep(0.02)
        return read(jobs)

    def slow_check(*args):
        time.sleep(0.01)
        return check(*args)

    monkeypatch.setattr(reader._files, "read_into", slow_read)
    monkeypatch.setattr(reader, "_check", slow_check)
    for threads in (0, 2):
        begun = time.monotonic()
        loader = Loader(reader, batch_size=3, num_threads=threads, prefetch=1)
        for _ in range(4):
            next(loader)
        loader.close()
        times, most_s = loader.times, max(1, threads) * (time.monotonic() - begun)
        assert 4 * 0.02 <= times.read_s and 4 * 3 * 0.01 <= times.decode_s
        assert times.read_s + times.decode_s <= most_s
        if not threads:
            assert loader.wait_s >= times.read_s + times.decode_s
