# SPDX-License-Identifier: Apache-2.0
"""The held-out records are the same for any number of processes, each read once."""

import shutil

import numpy as np
import pytest

from diffnext.data.datasets import open_datasets
from diffnext.data.held_out import HeldOut
from diffnext.data.records import open_reader, open_writer
from tests.runs.tiny_nova import make_cache


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    return [
        open_reader(make_cache(folder / "small", "t2i", count=9)),
        open_reader(make_cache(folder / "large", "t2i", count=6, size=16)),
    ]


def seen(data, world):
    """Of each process: the numbers of its records, and whether they count."""
    return [
        [(tuple(batch.index.tolist()), counts) for batch, counts in data.batches(rank, world)]
        for rank in range(world)
    ]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_all_processes_together_read_each_record_once(readers, world):
    found = seen(HeldOut(readers, samples=100, batch_size=4, seed=1), world)
    assert len({len(batches) for batches in found}) == 1  # of which none waits for another
    counted = [i for batches in found for index, counts in batches if counts for i in index]
    assert sorted(counted) == list(range(15))


def test_batches_are_of_one_shape_and_of_the_records_that_they_name(readers):
    data = HeldOut(readers, samples=100, batch_size=4, seed=1)
    for batch, _ in data.batches(0, 1):
        assert len({index < 9 for index in batch.index.tolist()}) == 1
        assert batch.moments.shape[-1] == (8 if batch.index[0] < 9 else 16)
        assert batch.epoch.tolist() == [0] * len(batch)


def test_a_dataset_may_mix_shapes(tmp_path):
    sizes = [8, 16, 16, 8, 24, 8, 16]
    writer = open_writer(tmp_path / "mixed", {"moments": "bytes", "shape": ["int64"]})
    for size in sizes:
        moments = np.zeros((4, size, size), np.float16)
        writer.write({"moments": moments.tobytes(), "shape": list(moments.shape)})
    writer.close()
    twice = [open_reader(tmp_path / "mixed") for _ in range(2)]
    data = HeldOut(twice, samples=100, batch_size=2, seed=1)
    found = {i: b.moments.shape[-1] for b, _ in data.batches(0, 1) for i in b.index.tolist()}
    assert [found[i] for i in range(14)] == 2 * sizes


def test_the_choice_belongs_to_the_seed(readers):
    def chosen(seed):
        data = HeldOut(readers, samples=5, batch_size=2, seed=seed)
        assert len(data) == 5
        return [seen(data, 1), seen(data, 1)]

    first, second = chosen(1)
    assert first == second
    assert chosen(2) != [first, second]


def test_the_digest_tells_choices_apart(readers, tmp_path):
    def digest(readers, samples=100, seed=1):
        return HeldOut(readers, samples=samples, batch_size=4, seed=seed).digest

    moved = shutil.copytree(readers[0].path, tmp_path / "moved")
    same = [digest(readers), digest(readers, samples=15), digest([open_reader(moved), readers[1]])]
    assert len(set(same)) == 1
    others = [digest(readers[:1]), digest(readers, samples=14), digest(readers, seed=2)]
    assert len({same[0], *others}) == 4


def test_a_dataset_with_weight_is_read_once_all_the_same(readers):
    found, _ = open_datasets(f"{readers[0].path}:3", "")
    data = HeldOut(found, samples=100, batch_size=4, seed=1)
    assert len(data) == 9
