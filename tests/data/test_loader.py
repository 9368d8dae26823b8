# SPDX-License-Identifier: Apache-2.0
"""Batches: the same samples for any layout, exact positions, errors instead of hangs."""

from __future__ import annotations

import threading
import traceback

import numpy as np
import pytest
import torch

from diffnext.data.loader import Loader
from diffnext.data.records import RecordError, open_reader, open_writer
from tests.data.toy_reader import ToyReader

WIDE, TALL = (4, 2, 3), (4, 3, 2)


def reader(count=50, **options):
    return ToyReader([WIDE if i % 3 else TALL for i in range(count)], **options)


def steps(
    count: int, *, world: int = 1, accum: int = 1, batch_size: int = 2, start=None, **options
):
    """Keys of `count` optimizer steps, gathered over the processes of a layout in documented order."""
    found = [[] for _ in range(count)]
    loaders = [
        Loader(
            reader(),
            batch_size=batch_size,
            accum_steps=accum,
            rank=r,
            world=world,
            seed=4,
            **options,
        )
        for r in range(world)
    ]
    for loader in loaders:
        if start is not None:
            loader.load_state_dict(start)
    for step in range(count):
        for _ in range(accum):
            for loader in loaders:
                found[step].append(next(loader).keys())
    states = [loader.state_dict() for loader in loaders]
    assert all(state == states[0] for state in states)
    for loader in loaders:
        loader.close()
    return found, states[0]


@pytest.mark.parametrize(
    ("world", "accum", "threads"), [(1, 1, 0), (2, 2, 0), (4, 1, 3), (1, 4, 1)]
)
def test_the_same_micro_batches_in_any_layout(world, accum, threads):
    wanted, _ = steps(20, world=1, accum=4, num_threads=0)
    size = 8 // (world * accum)
    found, _ = steps(20, world=world, accum=accum, batch_size=size, num_threads=threads)
    flat = [[key for micro in step for key in micro] for step in wanted]
    assert [[key for micro in step for key in micro] for step in found] == flat
    if size == 2:
        assert found == wanted


@pytest.mark.parametrize("at", [1, 6, 13])
def test_a_run_goes_on_where_it_was_with_another_layout(at):
    whole, _ = steps(20, accum=4)
    _, state = steps(at, world=2, accum=2)
    rest, _ = steps(20 - at, world=4, accum=1, start=state)
    assert rest == whole[at:]


def test_batches_hold_what_the_records_say():
    with_threads = Loader(reader(), batch_size=4, seed=1, num_threads=2, prefetch=3)
    inline = Loader(reader(), batch_size=4, seed=1, num_threads=0)
    for _, a, b in zip(range(30), with_threads, inline, strict=False):
        assert torch.equal(a.moments, b.moments) and a.prompts == b.prompts and a.keys() == b.keys()
        assert a.moments.dtype == torch.float16 and a.moments.shape[:3] == (4, 4, 1)
        assert torch.equal(a.moments[:, 0, 0, 0, 0].long(), a.index)
        assert a.prompts == [f"toy {i}" for i in a.index.tolist()]
    with_threads.close()


def test_a_batch_that_is_kept_is_not_written_over():
    loader = Loader(reader(), batch_size=4, num_threads=2)
    kept = [next(loader) for _ in range(40)]
    views = [next(loader).moments[1:2] for _ in range(5)]
    copies = [view.clone() for view in views]
    for _ in range(40):
        next(loader)
    assert all(torch.equal(batch.moments[:, 0, 0, 0, 0].long(), batch.index) for batch in kept)
    assert all(map(torch.equal, views, copies))
    loader.close()


def test_the_memory_of_batches_is_used_again():
    loader = Loader(ToyReader([WIDE] * 9), batch_size=4, num_threads=2, prefetch=3)
    for _ in range(60):
        next(loader)
    assert len(loader._batches._buffers._blocks) <= 3 + 2 + 1
    loader.close()


@pytest.mark.parametrize(("threads", "prefetch", "ahead"), [(1, None, 2), (3, None, 6), (3, 1, 1)])
def test_so_many_batches_are_read_ahead(threads, prefetch, ahead):
    loader = Loader(reader(), batch_size=4, num_threads=threads, prefetch=prefetch)
    next(loader)
    assert len(loader._due) == ahead
    loader.close()


def test_one_sample_serves_any_number_of_processes():
    found = []
    for rank in range(8):
        loader = Loader(ToyReader([WIDE]), batch_size=3, rank=rank, world=8, num_threads=2)
        found += [key for _ in range(4) for key in next(loader).keys()]
        loader.close()
    assert sorted(found) == [(epoch, 0) for epoch in range(8 * 3 * 4)]


def test_the_position_is_that_of_the_consumer():
    loader = Loader(reader(), batch_size=2, accum_steps=2, num_threads=2, prefetch=16)
    assert loader.state_dict()["step"] == 0
    next(loader)
    with pytest.raises(RuntimeError, match="1 of 2 micro-batches of step 0"):
        loader.state_dict()
    next(loader)
    assert loader.state_dict()["step"] == loader.step == 1
    loader.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"batch_size": 3}, "global_batch was 4, is 3"),
        ({"readers": reader(51)}, r"records was \[50\], is \[51\]"),
        ({"readers": ToyReader([WIDE] * 50)}, "buckets was"),
        ({"weights": [2]}, "buckets was"),
    ],
)
def test_a_position_of_another_order_is_refused(options, message):
    known = {"readers": reader(), "batch_size": 4, "seed": 1, "num_threads": 0}
    state = Loader(**known).state_dict()
    with pytest.raises(ValueError, match=message):
        Loader(**{**known, **options}).load_state_dict(state)


@pytest.mark.parametrize("threads", [0, 3])
def test_a_failed_read_raises_where_its_batch_was_due(threads):
    bad = reader(bad=[7])
    good = Loader(reader(), batch_size=2, seed=1, num_threads=0)
    due = next(n for n, batch in enumerate(good) if 7 in batch.index)
    loader = Loader(bad, batch_size=2, seed=1, num_threads=threads)
    for _ in range(due):
        next(loader)
    for _ in range(2):  # again, not the batch after it
        with pytest.raises(OSError, match="cannot read toy record 7") as caught:
            next(loader)
        trace = "".join(traceback.format_exception(caught.value))
        assert "toy_reader.py" in trace and "__getitem__" in trace
    assert loader.state_dict()["step"] == due
    bad.bad.clear()
    assert 7 in next(loader).index
    loader.close()


def test_a_thread_that_ends_is_an_error_and_no_hang():
    """Whatever it ends by: an exit is no Exception, and would end a thread without a word."""

    class Dying(ToyReader):
        def read_into(self, *args, **options):
            raise SystemExit("the thread is told to end")

    loader = Loader(Dying([WIDE] * 4), batch_size=2, num_threads=2)
    with pytest.raises(SystemExit, match="told to end") as caught:
        next(loader)
    assert "read_into" in "".join(traceback.format_exception(caught.value))
    loader.close()


def test_closing_ends_the_threads_and_the_files():
    source = reader()
    loader = Loader(source, batch_size=2, num_threads=4)
    next(loader)
    assert any(t.name.startswith("diffnext-read") for t in threading.enumerate())
    loader.close()
    assert not any(t.name.startswith("diffnext-read") for t in threading.enumerate())
    assert source.closed


def test_waiting_is_counted():
    class Slow(ToyReader):
        def __getitem__(self, index):
            threading.Event().wait(0.01)
            return super().__getitem__(index)

    loader = Loader(Slow([WIDE] * 4), batch_size=2, num_threads=1)
    for _ in range(3):
        next(loader)
    assert 0.02 < loader.wait_s
    loader.close()


def test_epochs_are_counted():
    loader = Loader(ToyReader([WIDE] * 10), batch_size=4, num_threads=0)
    assert [loader.epoch for _ in zip(range(6), loader, strict=False)] == [0, 1, 1, 1, 2, 2]


def test_datasets_are_mixed_by_weight():
    readers = [ToyReader([WIDE] * 10, path="a"), ToyReader([WIDE] * 10, path="b")]
    loader = Loader(readers, batch_size=10, weights=[2, 1], num_threads=0)
    prompts = [p for _, batch in zip(range(30), loader, strict=False) for p in batch.prompts]
    names = [prompt[0] for prompt in prompts]
    assert (names.count("a"), names.count("b")) == (200, 100)
    assert "ab" in "".join(names) and "ba" in "".join(names)


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"rank": 2, "world": 2}, {"accum_steps": 0}]
)
def test_impossible_layouts_are_refused(options):
    with pytest.raises(ValueError, match="is below world"):
        Loader(reader(), **{"batch_size": 1, **options})


# ------------------------------------------------------------------------ with folders on disk

FIELDS = {"moments": "bytes", "shape": ["int64"], "caption": "string"}


def write(folder, rows):
    with open_writer(folder, FIELDS) as writer:
        for row in rows:
            writer.write(row)
    return open_reader(folder)


def row(i, dtype="<f2"):
    return {"moments": np.full(WIDE, i, dtype), "shape": WIDE, "caption": f"{i}. More."}


def test_folders_are_read_into_batches(tmp_path):
    loader = Loader(write(tmp_path, map(row, range(30))), batch_size=7, num_threads=2)
    for _ in range(20):
        batch = next(loader)
        assert torch.equal(
            batch.moments, batch.index.half().view(-1, 1, 1, 1, 1).expand(7, 4, 1, 2, 3)
        )
        pairs = zip(batch.prompts, batch.index.tolist(), strict=True)
        assert all(prompt in (f"{i}.", f"{i}. More.") for prompt, i in pairs)
    loader.close()


def test_a_wrong_record_is_named(tmp_path):
    rows = [row(i, "<f4" if i == 5 else "<f2") for i in range(8)]
    loader = Loader(write(tmp_path, rows), batch_size=8, num_threads=1)
    message = r"00000\.data record 5 \(number 5 .*'moments' has 96 bytes.*takes 48: they look like float32"
    with pytest.raises(RecordError, match=message):
        next(loader)
    loader.close()


def test_a_dataset_without_moments_is_refused(tmp_path):
    with open_writer(tmp_path, {"codes": "bytes", "shape": ["int64"]}) as writer:
        writer.write({"codes": b"", "shape": [1]})
    with pytest.raises(ValueError, match=r"no field 'moments' of type BYTES, only .*codes"):
        Loader(open_reader(tmp_path), batch_size=1)
