# SPDX-License-Identifier: Apache-2.0
"""The same examples in the formats that others train from, read in shuffled batches.

Each format is a pair: how `count` examples are written to a folder, and a generator that reads it and
yields the bytes of moments of one batch after another, which it has stacked as a training loop needs
them. Batches are in a random order of all samples where the format allows it, else as its loader
shuffles.

What is not installed is left out. litdata and mosaicml-streaming need torchvision, which diffnext does
not; it must be the one that is made for the PyTorch that is installed.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BATCH = 16
PER_FILE = 64  # examples of a safetensors file
ROW_GROUP = 16  # examples that parquet reads at once


@dataclass(frozen=True)
class Examples:
    """`count` examples of random float16 moments with captions, the same in every format."""

    shape: tuple[int, ...]
    count: int

    def __iter__(self) -> Iterator[tuple[np.ndarray, dict[str, str]]]:
        rng = np.random.default_rng(0)
        for i in range(self.count):
            caption = f"a long caption, number {i}, with a few more words in it. " * 4
            moments = rng.integers(0, 2**15, self.shape, np.uint16).view(np.float16)
            yield moments, {"caption": caption, "text": "short"}


@dataclass(frozen=True)
class Format:
    write: Callable[[Path, Examples], None]
    read: Callable[[Path, Examples], Iterator[int]]
    ahead: bool = False  # it reads in threads, beside a consumer that copies each batch


def random_batches(count: int) -> Iterator[list[int]]:
    """Endless: numbers of examples, shuffled again each epoch."""
    rng, order = np.random.default_rng(1), []
    while True:
        while len(order) < BATCH:
            order += rng.permutation(count).tolist()
        yield order[:BATCH]
        order = order[BATCH:]


def stacked(rows: Iterator[np.ndarray]) -> Iterator[int]:
    """Bytes of each batch of the rows."""
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield np.stack(batch).nbytes
            batch = []


# --------------------------------------------------------------------------------- the record folder


def write_records(folder: Path, examples: Examples) -> None:
    from diffnext.data.records import open_writer

    fields = {"moments": "bytes", "shape": ["int64"], "caption": "string", "text": "string"}
    with open_writer(folder, fields) as writer:
        for moments, texts in examples:
            writer.write({"moments": moments, "shape": examples.shape, **texts})


def read_codewithgpu(folder: Path, examples: Examples) -> Iterator[int]:
    """The original's reader at random places, stacked into batches as its loader did."""
    from codewithgpu import RecordDataset

    dataset = RecordDataset(str(folder))

    def read(number: int) -> np.ndarray:
        dataset.seek(number)
        row = dataset.read()
        return np.frombuffer(row["moments"], np.float16).reshape(row["shape"])

    for numbers in random_batches(examples.count):
        yield np.stack(list(map(read, numbers))).nbytes


# ---------------------------------------------------------------------------------- a file a sample


def write_npz(folder: Path, examples: Examples) -> None:
    for i, (moments, texts) in enumerate(examples):
        np.savez(folder / f"{i}.npz", moments=moments, **texts)


def read_npz(folder: Path, examples: Examples) -> Iterator[int]:
    def read(number: int) -> np.ndarray:
        with np.load(folder / f"{number}.npz") as file:
            str(file["caption"])
            return file["moments"]

    for numbers in random_batches(examples.count):
        yield np.stack(list(map(read, numbers))).nbytes


# --------------------------------------------------------------------------------- files of several


def write_safetensors(folder: Path, examples: Examples) -> None:
    from safetensors.numpy import save_file

    held: dict[str, np.ndarray] = {}
    for i, (moments, _) in enumerate(examples):
        held[str(i)] = moments
        if len(held) == PER_FILE or i + 1 == examples.count:
            save_file(held, folder / f"{i // PER_FILE}.safetensors")
            held = {}


def read_safetensors(folder: Path, examples: Examples) -> Iterator[int]:
    """Tensors at random places of files that stay open; there are no captions in them."""
    from safetensors import safe_open

    files = [
        safe_open(folder / f"{n}.safetensors", "np") for n in range(-(-examples.count // PER_FILE))
    ]
    for numbers in random_batches(examples.count):
        yield np.stack([files[n // PER_FILE].get_tensor(str(n)) for n in numbers]).nbytes


def write_parquet(folder: Path, examples: Examples) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("moments", pa.binary()), ("caption", pa.string()), ("text", pa.string())])
    options = {"compression": "none", "use_dictionary": False}
    with pq.ParquetWriter(folder / "0.parquet", schema, **options) as writer:
        rows: list[dict] = []
        for i, (moments, texts) in enumerate(examples):
            rows.append({"moments": moments.tobytes(), **texts})
            if len(rows) == ROW_GROUP or i + 1 == examples.count:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []


def read_parquet(folder: Path, examples: Examples) -> Iterator[int]:
    """Whole row groups in a random order, which is kinder to it than single rows."""
    import pyarrow.parquet as pq

    file, rng = pq.ParquetFile(folder / "0.parquet"), np.random.default_rng(1)

    def rows() -> Iterator[np.ndarray]:
        while True:
            for group in rng.permutation(file.num_row_groups).tolist():
                for row in file.read_row_group(group).to_pylist():
                    yield np.frombuffer(row["moments"], np.float16).reshape(examples.shape)

    return stacked(rows())


def write_tar(folder: Path, examples: Examples) -> None:
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i, (moments, texts) in enumerate(examples):
            for ending, data in (("bin", moments.tobytes()), ("txt", texts["caption"].encode())):
                member = tarfile.TarInfo(f"{i:08d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def read_webdataset(folder: Path, examples: Examples) -> Iterator[int]:
    """Members in their order, through a shuffle buffer of 100."""
    import webdataset

    options = {"shardshuffle": False, "empty_check": False}
    source = webdataset.WebDataset(str(folder / "0.tar"), **options).repeat().shuffle(100)
    return stacked(np.frombuffer(row["bin"], np.float16).reshape(examples.shape) for row in source)


def write_litdata(folder: Path, examples: Examples) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for i, (moments, texts) in enumerate(examples):
        writer[i] = {"moments": moments.tobytes(), **texts}
    writer.done()
    writer.merge(1)


def read_litdata(folder: Path, examples: Examples) -> Iterator[int]:
    """Its streaming dataset, shuffled chunk by chunk, in this process."""
    from litdata import StreamingDataset

    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    dataset = StreamingDataset(str(folder), shuffle=True)

    def rows() -> Iterator[np.ndarray]:
        while True:
            for row in dataset:
                yield np.frombuffer(row["moments"], np.float16).reshape(examples.shape)

    return stacked(rows())


def write_mosaicml(folder: Path, examples: Examples) -> None:
    from streaming import MDSWriter

    columns = {"moments": "bytes", "caption": "str", "text": "str"}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for moments, texts in examples:
            writer.write({"moments": moments.tobytes(), **texts})


def read_mosaicml(folder: Path, examples: Examples) -> Iterator[int]:
    """Its streaming dataset at random places, in this process."""
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder), batch_size=BATCH)

    def read(number: int) -> np.ndarray:
        return np.frombuffer(dataset[number]["moments"], np.float16).reshape(examples.shape)

    for numbers in random_batches(examples.count):
        yield np.stack(list(map(read, numbers))).nbytes


FORMATS = {
    "codewithgpu": Format(write_records, read_codewithgpu),
    "npz": Format(write_npz, read_npz),
    "safetensors": Format(write_safetensors, read_safetensors),
    "parquet": Format(write_parquet, read_parquet),
    "webdataset": Format(write_tar, read_webdataset),
    "litdata": Format(write_litdata, read_litdata),
    "mosaicml": Format(write_mosaicml, read_mosaicml),
}
